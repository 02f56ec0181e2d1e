"""`task=picl` and what belongs to it, as a person runs them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from test_conf import composed

from tasks import run_folder
from tasks.picl import separation, show, stages, verdict
from tasks.picl.filter import Filter
from zoo.load import build

SMALL = (
    "experiment=picl",
    "hydra.mode=RUN",
    "data.corpus.paragraphs=400",
    "data.corpus.world.corpus_tasks=10",
    "data.corpus.world.labelled_tasks=8",
    "data.corpus.world.test_tasks=2",
    "data.corpus.real_paragraphs=30",
    "data.val_fraction=0.1",
    "data.test_fraction=0.1",
    "tokenizer.vocab_size=600",
    "max_steps=3",
    "size=nano",
    "data.batch_size=4",
    "model.context_length=128",
)
QUICK = (
    *SMALL,
    "task.groups.finder.retriever.steps=3",
    "task.groups.finder.retriever.batch_size=4",
)


def results_of(run) -> dict:
    assert run.code == 0, run.err
    return json.loads((run.folder / "results.json").read_text())


@pytest.fixture
def trained(train):
    """A run of a few steps, and its results."""
    run = train("task=picl", *QUICK, data=False)
    return run, results_of(run)


def test_run_measures_retrieval_documents_and_context(trained, capfd) -> None:
    run, results = trained
    for k in (0, 1, 2, 4, 8):
        assert 0 <= results[f"test/fewshot_accuracy@{k}"] <= 1
    assert 0 < results["retrieval/recall@9"] <= 1 and results["retrieval/index_recall"] == 1.0
    assert results["retrieval/paragraphs_per_group"] > 2 and results["test/loss"] > 0
    assert "few-shot accuracy, mean" in json.loads((run.folder / "series.json").read_text())
    assert (run.folder / "plots" / "fewshot.png").stat().st_size > 1000
    # The same run can be looked at: its queries with their neighbours and tasks.
    assert show.main([str(run.folder), "--queries", "2", "--near", "3"]) == 0
    shown = capfd.readouterr().out
    assert len(re.findall(r"task \d+, shared by \d of 3", shown)) + shown.count("?") >= 2
    # It can score groups, its own and others.
    check_filter(run)
    assert separation.main([str(run.folder), "--groups", "40", "--checkpoint", "last"]) == 0
    found = separation.scores_of(str(run.folder), groups=40, checkpoint="last")
    assert len(found["same"]) == len(found["random"]) == 40
    area = separation.area(found["same"], found["random"])
    assert f"{area:.3f}" in capfd.readouterr().out


def test_area_counts_pairs_in_the_right_order() -> None:
    good, bad = np.array([1.0, 2.0]), np.array([0.0, 1.0, 3.0])
    assert separation.area(good, bad) == pytest.approx((1 + 0.5 + 1 + 1) / 6)
    assert separation.main(["nowhere"]) == 2


def check_filter(run) -> float:
    """Its two passes agree with the model's own losses, a paragraph and a group at a time; returns the
    median score."""
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    data, groups = stages.open_groups(config)
    groups.prepare(data, context_length=128, seed=config["seed"])
    scorer = Filter(scorer=str(run.folder), checkpoint="last", delta=-1e9, batch_size=3)
    model = scorer.model(data.tokenizer)
    scores = scorer.scores(groups, "a test", data.cache_dir)
    assert len(scores) == len(groups.queries)
    for row in (0, 7):
        members = groups.members(int(groups.queries[row]))
        parts = [torch.from_numpy(groups.part(i).astype(np.int64)) for i in members]
        whole = torch.cat(parts)[None]
        with torch.no_grad():
            logs = model(whole)[0].log_softmax(-1)
        place, saved = 0, []
        for part in parts:
            with torch.no_grad():
                alone = model(part[None])[0].log_softmax(-1)
            for t in range(1, len(part)):
                saved.append(float(logs[place + t - 1, part[t]] - alone[t - 1, part[t]]))
            place += len(part)
        assert scores[row] == pytest.approx(np.mean(saved), abs=1e-4)
    return float(np.median(scores))


@pytest.mark.slow
def test_filter_keeps_the_groups_above_delta(trained, train) -> None:
    run, _ = trained
    middle = check_filter(run)
    node = f"{{_target_:tasks.picl.filter.Filter,scorer:'{run.folder}',checkpoint:last,delta:{middle}}}"
    again = train("task=picl", *QUICK, f"+task.groups.filter={node}", data=False)
    assert results_of(again)["retrieval/kept_share"] == pytest.approx(0.5, abs=0.01)
    none = node.replace(f"delta:{middle}", "delta:1e9")
    refused = train("task=picl", *QUICK, f"+task.groups.filter={none}", data=False)
    assert refused.code == 2 and "every group was dropped" in refused.err


SLOW = ("picl_extralm", "picl_selfsup", "picl_metaicl", "picl_untrained", "picl_random")


@pytest.mark.parametrize(
    "way", ["picl_bm25", *(pytest.param(way, marks=pytest.mark.slow) for way in SLOW)]
)
def test_baselines_train_on_as_many_tokens(train, way: str) -> None:
    results = results_of(train(f"task={way}", *SMALL, data=False))
    assert results["tokens"] == 3 * 4 * 128 and results["test/fewshot_accuracy@4"] >= 0
    found = way in ("picl_bm25", "picl_untrained", "picl_random")
    assert ("retrieval/recall@9" in results) == found


@pytest.mark.slow
def test_a_sweep_ends_with_its_verdict(train, tmp_path: Path) -> None:
    small = [a for a in SMALL if a != "hydra.mode=RUN"]
    run = train("task=picl_oracle,picl_extralm", "seed=0,1", *small, data=False)
    assert run.code == 0, run.err
    (sweep,) = (tmp_path / "runs" / "sweeps").glob("*/*")
    text = (sweep / "picl.md").read_text()
    assert "## Accuracy by the number of demonstrations" in text and "| oracle |" in text
    assert (sweep / "picl.png").is_file() and (sweep / "comparison.html").is_file()
    assert verdict.main([str(sweep)]) == 0 and verdict.main([str(tmp_path / "none")]) == 2


@pytest.mark.slow
def test_any_corpus_and_any_decoder(train) -> None:
    """Without the world: plain text, bytes, another position scheme."""
    quick = ("task.groups.finder.retriever.steps=2", "task.groups.finder.retriever.batch_size=2")
    run = train(
        "task=picl", "model=alibi", "model.context_length=512", *quick, "task.groups.longest=null"
    )
    results = results_of(run)
    assert results["retrieval/paragraphs"] > 30 and "retrieval/recall@9" not in results


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_groups(train) -> None:
    """Killed after two of four steps and continued: the weights of a run that never stopped."""
    given = ("task=picl_oracle", *(a for a in SMALL if not a.startswith("max_steps")))
    given += ("optim.schedule.decay=constant", "optim.schedule.warmup=1")  # of no run's length
    whole = train(*given, "max_steps=4", data=False)
    part = train(*given, "max_steps=2", data=False)
    going = train(*given, "max_steps=4", f"ckpt={part.folder}", data=False)
    assert going.code == 0, going.err
    states = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (whole.folder, part.folder)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (("task.alpha=0.01",), "task.alpha: 0.01 of data.batch_size=4 rows"),
        (("task.groups=null",), "task.groups: are needed with alpha=0.5"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(train, wrong, line: str) -> None:
    run = train("task=picl_oracle", *SMALL, *wrong, data=False)
    assert run.code == 2 and line in run.err and "step 1" not in run.err


def test_stages_run_alone(tmp_path: Path, capsys) -> None:
    given = [a for a in SMALL if a != "hydra.mode=RUN"]
    given += [f"paths.cache={tmp_path}", "task=picl_bm25"]
    assert stages.main(["paragraphs", *given]) == 0
    assert "paragraphs: 3" in capsys.readouterr().out
    assert not (tmp_path / "picl-neighbours").exists()
    assert stages.main(["neighbours", *given]) == 0
    assert "retrieval/recall@9" in capsys.readouterr().out
    assert stages.main(["groups", *given]) == 0 and "the first:" in capsys.readouterr().out
    assert stages.main(["groups", *given[:-1], "task=picl_extralm"]) == 2
    assert "has no neighbours" in capsys.readouterr().err


def test_the_experiment_is_the_whole_comparison() -> None:
    config = yaml.safe_load((ROOT / "conf" / "experiment" / "picl.yaml").read_text())
    swept = config["hydra"]["sweeper"]["params"]
    ways = swept["task"].split(",")
    assert {"picl", "picl_extralm", "picl_random", "picl_bm25", "picl_untrained"} <= set(ways)
    assert swept["seed"] == "0,1,2"


def test_the_published_settings() -> None:
    """Hyper-parameters of the paper's tables and the released scripts."""
    config = run_folder.plain(composed("experiment=picl_paper", "pretrained=null"))
    groups, retriever = config["task"]["groups"], config["task"]["groups"]["finder"]["retriever"]
    assert (retriever["lr"], retriever["batch_size"], retriever["hard_negatives"]) == (5e-5, 64, 4)
    assert (retriever["temperature"], retriever["cosine"]) == (1.0, False)
    assert (groups["cut"], groups["shots"], groups["glue"], config["task"]["alpha"]) == (
        255,
        16,
        128,
        0.5,
    )
    assert (config["optim"]["lr"], config["optim"]["schedule"]["warmup"]) == (1e-6, 1000)
    assert config["max_steps"] == 100_000 and config["model"]["context_length"] == 1024
    rows = (
        config["data"]["batch_size"] * config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    )
    assert rows // 2 * 1024 == 131_072
    for part in ("data", "task"):
        assert build({**config[part]["corpus" if part == "data" else "few_shot"]}, key=part)


def test_commands_of_the_page_compose() -> None:
    page = (ROOT / "tasks" / "picl" / "README.md").read_text()
    commands = re.findall(r"^python train\.py (.*?)(?:\s+#.*)?$", page, re.M)
    assert len(commands) >= 3
    for command in commands:
        assert composed(*command.split()).task._target_ == "tasks.picl.task.PICL"
