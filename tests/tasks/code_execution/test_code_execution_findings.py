"""What a sweep is said to have found: read from run folders written by hand, worked out by hand."""

import json

import pytest
import yaml

from tasks.code_execution.findings import CURRICULUM, MIXED, Sweep, bootstrap, main
from tasks.code_execution.scores import Prediction, score, write_predictions

GOLD = "<line> <0> <state> a : 1 </state>"


def write_run(folder, choice, seed, right):
    """A finished run that got `right` of eight programs of each set right."""
    folder.mkdir(parents=True)
    results, stages = {"test/loss": 1.0, "params": 10, "tokens": 20}, []
    for name in ("tutorial", "codenet"):
        some = [
            Prediction(str(i), name, "for i in 'ab': pass", GOLD, GOLD if i < right else "",
                       source_id=str(i // 2))
            for i in range(8)
        ]  # fmt: skip
        write_predictions(folder / "predictions" / f"{name}.jsonl", some)
        results |= {f"test/{metric}@{name}": value for metric, value in score(some).items()}
        results[f"test/trace_accuracy@{name}+loops"] = score(some)["trace_accuracy"]
        if choice == "traces":
            results[f"test/trace_accuracy@{name}+after-stage-1"] = 12.5
    if choice == "traces_only":
        stages = [{"name": "only", "mixture": {"codenet": 1.0}}]
    config = {"seed": seed, "data": {"curriculum": {"stages": stages}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps(results))
    status = {"status": "finished", "choices": {"data": choice}, "overrides": [f"seed={seed}"]}
    (folder / "status.json").write_text(json.dumps(status))
    rows = [f"{step},{100 * step},{step},{2 / step},{10 * step}" for step in (1, 2)]
    head = "step,tokens,seconds,val/loss@tutorial,val/trace_accuracy@tutorial"
    (folder / "metrics.csv").write_text("\n".join([head, *rows, ""]))


@pytest.fixture
def folder(tmp_path):
    number = 0
    for choice, rights in (("traces", (6, 8)), ("traces_mixed", (4, 6)), ("traces_only", (2, 2))):
        for seed, right in enumerate(rights):
            write_run(tmp_path / str(number), choice, seed, right)
            number += 1
    return tmp_path


def test_runs_are_named_after_what_they_were_trained_on(folder):
    sweep = Sweep(folder)
    assert list(sweep.runs) == [CURRICULUM, MIXED, "only codenet"]
    assert sweep.values(CURRICULUM, "test/trace_accuracy@codenet") == {"0": 75.0, "1": 100.0}
    assert ("after stage 1", CURRICULUM, "+after-stage-1") in sweep.rows


def test_the_interval_over_programs_draws_sources_not_mutants(folder):
    """Seed 0 gains on programs 4 and 5, which are one source, seed 1 on 6 and 7, another: 4 of 16."""
    low, high = bootstrap(Sweep(folder), MIXED, "codenet")
    # k of the four sources drawn gain half of their pairs, 12.5 points each: P(k=0) = P(k=4) = 6%.
    assert low == 0.0 and high == 50.0
    assert bootstrap(Sweep(folder), MIXED, "codenet") == (low, high)


def test_the_page_has_every_table(folder, capsys):
    content = {
        "search": {"code alone": 40.0, "predicted outputs": 50.0},
        "search_items": 9, "search_problems": 3,
        "rerank": {"predicted": 60.0, "random": 20.0, "tracer": 100.0},
        "rerank_problems": 4, "rerank_candidates": 30,
    }  # fmt: skip
    (folder / "0" / "downstream.json").write_text(json.dumps(content))
    assert main([str(folder)]) == 0, capsys.readouterr().err
    page = (folder / "code_execution.md").read_text()
    assert "| curriculum | 0.0 ± 0.0 | 87.5 ± 158.8 |" in page  # t(1) = 12.706, s / sqrt(2) = 12.5
    assert "| after stage 1 |" in page and "| only codenet |" in page
    assert "| without curriculum, CodeNetMut-like | 0.0 ± 0.0 | 25.0 ± 0.0 |" in page
    assert "| loops |  | 87.5 ± 158.8 | 87.5 ± 158.8 |" in page
    assert "| predicted outputs | 50.0 |" in page and "4 problems, 30 candidates" in page
    assert (folder / "code_execution.png").stat().st_size > 10_000


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no run folders" in capsys.readouterr().err
