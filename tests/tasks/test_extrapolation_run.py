"""`task=extrapolation` and its experiments as a person runs them."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from zoo.report.runs import read_run

QUICK = ("task=extrapolation", "task.speed=false", "data.test_fraction=0.3", "max_steps=2")


def results_of(run) -> dict:
    assert run.code == 0, run.err
    return json.loads((run.folder / "results.json").read_text())


def test_run_leaves_numbers_series_plots_and_tables(train):
    run = train(*QUICK, "model=xpos", "task.lengths=[16,64,128,256]")
    results = results_of(run)
    for length in (16, 64, 128, 256):
        for suffix in ("", "+bca", "+window"):
            for quantity in ("ppl", "bits_per_byte", "late_ppl"):
                assert results[f"test/{quantity}@{length}{suffix}"] > 0
    assert results["test/ppl@64"] == results["test/ppl@64+bca"]
    assert results["test/ppl@256"] != results["test/ppl@256+bca"]
    for quantity in ("resolution", "resolution_heads", "resolution_zero", "monotone"):
        for at in ("64", "128", "128+bca", "128+window"):
            lowest = 0 if quantity in ("monotone", "resolution_zero") else -1
            assert lowest <= results[f"test/{quantity}@{at}"] <= 1
    assert results["test/translation_change"] < 1e-3 and results["translation_invariant"] is True
    worst = max(results["test/ppl@128"], results["test/ppl@256"]) / results["test/ppl@64"]
    assert results["test/ppl_ratio"] == pytest.approx(worst)
    read = read_run(run.folder)
    assert not read.problems and "perplexity by position, bca" in read.series
    assert {"extrapolation.png", "expected_scores.png"} <= {path.name for path in read.plots}
    assert "translation invariant: yes" in run.out and "extrapolates, bca:" in run.out
    assert not re.search(r"test/ppl@\d", run.out), "the curve is in its own table, not listed"


def test_training_is_that_of_language_modelling(train):
    """Same seed, same batches, same loss: the task changes what is measured and nothing else."""
    plain = results_of(train("task=lm", "model=rope", *QUICK[2:]))
    other = results_of(train(*QUICK, "model=rope", "task.lengths=[64,128]", "task.masks=null"))
    assert other["test/loss"] == plain["test/loss"] and other["val/loss"] == plain["val/loss"]
    assert not [name for name in other if "+" in name]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("task.lengths=[48,128]", "task.lengths: 48 does not divide the longest, 128"),
        ("task.lengths=[64,65536]", "lengths: no document of the test split has the 65,537 tokens"),
        ("task.speed_lengths=[99999]", "task.speed_lengths: 99999 is not between 1 and"),
        ("task.spans_per_document=0", "task.spans_per_document: must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(train, wrong, line):
    run = train(*QUICK, wrong)
    assert run.code == 2 and line in run.err
    assert "step 1" not in run.err


def test_lex_is_the_whole_comparison():
    """Ten schemes, three seeds, one command."""
    config = yaml.safe_load((ROOT / "conf" / "experiment" / "lex.yaml").read_text())
    sweep = config["hydra"]
    assert sweep["mode"] == "MULTIRUN"
    models = sweep["sweeper"]["params"]["model"].split(",")
    wanted = "learned sinusoidal nope alibi rope t5 kerple fire sandwich xpos"
    assert sorted(models) == sorted(wanted.split())
    assert sweep["sweeper"]["params"]["seed"] == "0,1,2"


def test_lex_sweeps_ends_with_the_verdicts(train, tmp_path):
    """The experiment at a tenth of its size: a table of learned positions is measured beyond N too."""
    run = train(
        "experiment=lex",
        "model=learned,rope",
        "seed=0",
        "size=nano",
        *QUICK[2:],
        "task.lengths=[64,256]",
        "data.max_eval_tokens=2048",
    )
    assert run.code == 0, run.err
    (sweep,) = (tmp_path / "runs" / "sweeps").glob("*/*")
    results = json.loads((sweep / "0" / "results.json").read_text())
    assert results["test/ppl@256"] > 0 and results["translation_invariant"] is False
    for name in ("comparison.html", "orderings.md", "extrapolation.png"):
        assert (sweep / name).is_file(), name
    assert "absolute positions break beyond N" in run.out


def test_the_papers_own_setting_takes_its_first_steps(train, tmp_path):
    """On a stand-in for the Pile with its configs: trained on the nine parts, judged on arXiv alone."""
    import datasets

    paper = yaml.safe_load((ROOT / "conf" / "experiment" / "lex_paper.yaml").read_text())
    pile = stand_in(tmp_path / "pile", [*paper["data"]["config"], paper["task"]["texts"]["config"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
        run = train(
            "experiment=lex_paper",
            "model=xpos",
            f"data.name={pile}",
            "tokenizer=bytes",
            "~tokenizer.name",
            "trainer=cpu",
            "trainer.devices=1",
            "trainer.num_nodes=1",
            "data.val_fraction=0.1",
            "data.test_fraction=0.1",
            "task.lengths=[32,64,128,256]",
            "task.speed=false",
            "max_steps=3",
            data=False,
        )
    results = results_of(run)
    assert results["steps"] == 3 and results["test/ppl@256+bca"] > 0
    # The stand-in's arXiv is in letters that training hardly saw: what is judged is harder.
    assert results["test/bits_per_byte@64"] > results["test/bits_per_byte"] + 0.3
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["optim"]["betas"] == [0.9, 0.98] and config["optim"]["lr"] == 3e-4
    assert len(config["data"]["config"]) == 9 and "ArXiv" not in config["data"]["config"]


def stand_in(folder: Path, parts: list[str]) -> Path:
    """A dataset folder with a config for each part, train and test files in each."""
    draw = random.Random(0)
    entries = []
    for part in parts:
        place = folder / re.sub(r"\W+", "_", part)
        place.mkdir(parents=True)
        for split in ("train", "test"):
            letters = "zqxjk" if part == "ArXiv" else "etaoin "
            rows = ["".join(draw.choice(letters) for _ in range(400)) for _ in range(30)]
            lines = [json.dumps({"text": f"{part} {i} {row}"}) for i, row in enumerate(rows)]
            (place / f"{split}.jsonl").write_text("\n".join(lines))
        files = [{"split": s, "path": f"{place.name}/{s}.jsonl"} for s in ("train", "test")]
        entries.append({"config_name": part, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': entries})}---\n")
    return folder
