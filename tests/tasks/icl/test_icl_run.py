"""`task=icl` and `task=icl_regression` as a person runs them, and what a sweep of them says."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from tasks.icl import regression
from tasks.icl.verdicts import CLAIMS, judge, to_markdown, values, verdict
from zoo.report.stats import Difference
from zoo.report.variants import Variant

SHAPE = ("model.context_length=40", "data.batch_size=16", "data.test_episodes=2")
MAPPING = ("task=icl", "data=label_mapping", "data.dev_episodes=1", "task.finetuning_lrs=[0.1]")


def results_of(run) -> dict:
    assert run.code == 0, run.err
    return json.loads((run.folder / "results.json").read_text())


def test_from_scratch_run_leaves_every_measure_with_its_controls(train):
    run = train(*MAPPING, *SHAPE, "model=rope", "mixer=momentum", data=False)
    results = results_of(run)
    for net in ("", "untrained", "untrained_same_lr"):
        for setting in ("zsl", "icl", "ft"):
            assert 0 <= results[f"test/acc@{setting}{'+' * bool(net)}{net}"] <= 100
        for name in ("sim_aou", "sim_am", "kendall"):
            assert -1 <= results[f"test/{name}{'@' * bool(net)}{net}"] <= 1
    for name in ("raw", "random", "random_uniform", "other", "raw_other"):
        assert -1 <= results[f"test/sim_aou@{name}"] <= 1
    assert results["icl/queries"] == 32 and results["icl/shots"] == 12
    series = json.loads((run.folder / "series.json").read_text())
    assert series["sim_aou@raw+untrained by layer"]["x"] == [1, 2]
    assert (run.folder / "plots" / "similarities.png").is_file()
    assert "SimAOU, normalised as published" in run.out


def test_published_weights_on_sentences(train, tmp_path):
    """GPT-2 from a folder, no training, a set from JSON lines: the paper's own setting, small."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=300, n_positions=512
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    rows = [
        {
            "text": f"a film number {i}",
            "label": i % 2,
            "label_text": ["negative", "positive"][i % 2],
        }
        for i in range(20)
    ]
    (tmp_path / "sst2").mkdir()
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "sst2" / f"{split}.jsonl").write_text(lines)
    run = train(
        "task=icl",
        "data=classification",
        "data.name=sst2",
        f"data.folder={tmp_path}",
        "data.shots=4",
        "data.draws=2",
        "data.dev_queries=3",
        "task.finetuning_lrs=[0.01]",
        "task.untrained=false",
        f"pretrained={tmp_path / 'gpt2'}",
        "model.context_length=256",
        "max_steps=0",
        data=False,
    )
    results = results_of(run)
    assert results["steps"] == 0 and results["icl/shots"] == 4 and results["icl/queries"] == 40
    assert math.isfinite(results["test/sim_aou"]) and math.isfinite(results["test/loss"])
    assert not [name for name in results if "untrained" in name]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (("task=icl",), "task=icl needs tasks to learn in context"),
        ((*MAPPING, "model.context_length=30"), "give model.context_length=40"),
        ((*MAPPING, *SHAPE, "task.finetuning_lrs=[0]"), "task.finetuning_lrs: must be numbers"),
    ],
    ids=["data", "length", "rates"],
)
def test_what_cannot_be_measured_is_said_before_training(train, wrong, line):
    run = train(*wrong, data="data=label_mapping" not in wrong)
    assert run.code == 2 and line in run.err
    assert "step 1" not in run.err


def test_regression_run_compares_with_what_can_be_fitted(train):
    run = train("experiment=icl_regression", "size=nano", "model.context_length=24", "model.width=32",
                "data.eval_samples=64", "validate_every=3", data=False)  # fmt: skip
    results = results_of(run)
    assert results["test/mse_ols@6"] < 1e-10 < results["test/mse_gd1@6"]
    assert results["test/distance_gd1@3"] > 0 and results["test/mse@3+untrained"] > 0
    assert (run.folder / "plots" / "regression.png").is_file()
    from zoo.load import load_run

    tokens = torch.zeros(1, 4, 5)
    assert load_run(run.folder).model(tokens).shape == (1, 4, 1)


def test_fitted_predictors_by_hand():
    """Two pairs in one dimension: (1, 2) and (2, 4), so w = 2; the third x is 3."""
    x = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64)
    y = torch.tensor([[2.0, 4.0, 6.0]], dtype=torch.float64)
    assert regression.least_squares(x, y, 2).tolist() == pytest.approx([6.0])
    assert regression.least_squares(x, y, 0).tolist() == [0.0]
    # Gradient at 0 of the half mean squared error: -(1*2 + 2*4)/2 = -5; one step of 0.1: w = 0.5.
    assert regression.descent(x, y, 2, steps=1, size=0.1).tolist() == pytest.approx([1.5])
    # Second gradient: ((0.5-2)*1 + (1-4)*2)/2 = -3.75: w = 0.875.
    assert regression.descent(x, y, 2, steps=2, size=0.1).tolist() == pytest.approx([2.625])
    assert regression.descent(x, y, 0, steps=4, size=0.1).tolist() == [0.0]


# ---- sweeps


def made_up_sweep(folder: Path, gains: list[float]) -> Path:
    """Finished runs of two families in which ICL is better by `gains`, seed by seed."""
    number = 0
    for maps in (8, None):
        for seed, gain in enumerate(gains):
            run = folder / str(number)
            run.mkdir(parents=True)
            number += 1
            names = {t for claim in CLAIMS for t in (*claim.measure, *claim.control)}
            results = {f"test/{name}": 0.1 * seed for name in names}
            results |= {"test/acc@icl": 50 + gain, "test/acc@zsl": 50.0}
            results |= {"test/rec2ftp": float("nan") if maps is None else 60.0}
            results |= {"icl/finetuning_lr": 0.1, "icl/rec2ftp_count": 3}
            (run / "results.json").write_text(json.dumps(results))
            (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "data": {"maps": maps}}))
            (run / "status.json").write_text(json.dumps({"status": "finished"}))
    return folder


def test_verdicts_need_the_whole_interval(tmp_path, capsys):
    written = judge(made_up_sweep(tmp_path, [9.0, 10.0, 11.0])).read_text()
    first, second = written.split("## ")[1:]
    assert first.startswith("recognised: one of 8 maps (seeds: 3)")
    assert second.startswith("learnt: any map (seeds: 3)")
    line = next(x for x in first.splitlines() if x.startswith("| demonstrations help"))
    # mean 10, standard error 1/sqrt 3, t(2) = 4.303
    assert "+10 [+7.52, +12.5]" in line and "**held**" in line
    undefined = next(x for x in second.splitlines() if "Rec2FTP" in x and x.startswith("|"))
    assert "**undefined**" in undefined, "no query that fine-tuning mends"
    assert (
        tmp_path / "icl.png"
    ).is_file() and "held  demonstrations help" in capsys.readouterr().out
    wide = judge(made_up_sweep(tmp_path / "wide", [0.0, 10.0, 20.0])).read_text()
    assert "**held on average**" in wide


def test_verdict_of_a_difference():
    def of(mean, half):
        return verdict(Difference(mean, half, 3, paired=True))

    assert [of(1, 0.5), of(1, 2), of(-1, 0.5), of(1, None)] == [
        "held",
        "held on average",
        "did not hold",
        "held on average",
    ]
    assert verdict(None) == "undefined"


def test_a_sweep_without_the_task_is_refused(tmp_path, capsys):
    from tasks.icl.verdicts import main

    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "status.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "no finished run of task=icl" in capsys.readouterr().err


def test_claims_are_about_what_a_run_leaves(tmp_path):
    """A claim about a metric with another name would silently stay undefined."""
    variant = Variant("", [], {}, {})
    assert values(variant, ("acc@icl",)) == {} and "—" in to_markdown([variant])
    nets = ("", "+untrained", "+untrained_same_lr", "@untrained", "@untrained_same_lr")
    base = {"acc@icl", "acc@zsl", "acc@ft", "acc@icl_of_zsl_wrong", "rec2ftp", "kendall"}
    base |= {"kendall@random", "sim_am", "sim_am@before", "sim_am@delta", "sim_aou"}
    base |= {f"sim_aou@{c}" for c in ("raw", "random", "other", "raw_other")}
    known = {name + net for name in base for net in nets}
    assert {t for claim in CLAIMS for t in (*claim.measure, *claim.control)} <= known


def test_the_experiment_is_both_families_and_three_seeds():
    config = yaml.safe_load((ROOT / "conf" / "experiment" / "icl_is_gd.yaml").read_text())
    params = config["hydra"]["sweeper"]["params"]
    assert params == {"data.maps": "8,null", "seed": "0,1,2"}
