"""`python train.py task=code_execution` from one end to the other, and what its stages do."""

import json

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from kernels.attention.masks import prefix
from tasks.code_execution.encoded import collate
from tasks.code_execution.show import main as show
from tasks.code_execution.task import CodeExecution
from tasks.metrics_file import read_metrics
from tasks.optim import AdamW, Budget
from tests.tasks.code_execution.made_programs import write
from zoo.bench import preset
from zoo.load import build, load_run

STAGES = [
    {"name": "single", "share": 1, "mixture": {"singleline": 1.0}},
    {"name": "all", "share": 1, "mixture": {"codenet": 0.5, "tutorial": 0.5}},
]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Records of all sets, and a choice `data=made` that reads them."""
    folder = tmp_path_factory.mktemp("programs")
    write(folder / "records", train=60, val=4, test=5)
    return folder


def choice(folder, records, **options):
    """A --config-dir with `data=made`."""
    node = {
        "_target_": "tasks.code_execution.data.TraceData",
        "_convert_": "all",
        "records": {"_target_": "tasks.code_execution.records.Folder", "path": str(records)},
        "curriculum": {
            "_target_": "tasks.code_execution.curriculum.Curriculum",
            "_convert_": "all",
            "stages": STAGES,
        },
        "tokenizer": "${tokenizer}",
        "context_length": "${model.context_length}",
        "batch_size": 2,
        "seed": "${seed}",
        "cache_dir": "${paths.cache}",
    }
    (folder / "conf" / "data").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "data" / "made.yaml").write_text(yaml.safe_dump(node | options))
    return ["--config-dir", str(folder / "conf"), "task=code_execution", "data=made"]


SMALL = ["size=nano", "model.context_length=288", "model.width=32", "model.num_layers=1",
         "task.trace_length=40"]  # fmt: skip


@pytest.fixture
def execute(train, programs, tmp_path):
    """Runs the task on the made programs."""

    def launch(*arguments, **options):
        given = choice(tmp_path, programs / "records", **options)
        return train(*given, *SMALL, "task.val_items=2", *arguments, data=False)

    return launch


@pytest.mark.parametrize("model", ["xpos", pytest.param("unixcoder", marks=pytest.mark.slow)])
def test_a_run_leaves_every_percentage_and_every_prediction(execute, model, capfd):
    run = execute(f"model={model}", "max_steps=6", "validate_every=3")
    assert run.code == 0, run.err
    results = json.loads((run.folder / "results.json").read_text())
    for name in ("tutorial", "codenet", "tutorial+after-stage-1"):
        for metric in ("output_accuracy", "trace_accuracy", "line_f1", "identifier_recall"):
            assert 0 <= results[f"test/{metric}@{name}"] <= 100
    assert "test/trace_accuracy@codenet+branches" in results
    assert "test/line_f1@singleline" not in results  # it has no lines
    assert results["test/loss"] > 0 and results["test/loss@singleline"] > 0
    curve = [row for row in read_metrics(run.folder / "metrics.csv") if "val/loss" in row]
    assert [row["step"] for row in curve] == ["3", "6"]
    assert all("val/trace_accuracy@tutorial" in row for row in curve)
    loaded = load_run(run.folder, checkpoint="after-stage-1")
    assert loaded.tokenizer.id("<mask0>") == 5 and loaded.model.width == 32
    assert show([str(run.folder), "--number", "2"]) == 0
    assert "expected" in capfd.readouterr().out
    page = (run.folder / "predictions" / "samples.html").read_text()
    assert page.startswith("<!doctype html>") and page.count("<section") >= 3


def optimiser_steps(checkpoint):
    states = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    return {int(state["step"]) for state in states[0]["state"].values()}


def test_a_new_stage_has_a_new_optimiser_and_begins_its_schedule_again(execute):
    run = execute("max_steps=8", "validate_every=8", "callbacks.meter.every=1")
    assert optimiser_steps(run.folder / "checkpoints" / "last.ckpt") == {4}
    rates = [float(row["train/lr"]) for row in read_metrics(run.folder / "metrics.csv")
             if "train/lr" in row]  # fmt: skip
    # What is logged after a step is the rate of the next one.
    assert rates[:3] == rates[4:7] and len(set(rates[:4])) == 4 and rates[3] < rates[0] / 100


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(execute, programs):
    """Stopped at the boundary of two stages, where the optimiser is made anew."""
    straight = execute("max_steps=8", "validate_every=4", "callbacks.checkpoints.every=4")
    weights = load_run(straight.folder, checkpoint="last").model.state_dict()
    for name in ("best", "last"):
        (straight.folder / "checkpoints" / f"{name}.ckpt").unlink()
    (straight.folder / "checkpoints" / "after-stage-1.ckpt").unlink()
    resumed = execute("max_steps=8", "validate_every=4", f"ckpt={straight.folder}")
    assert resumed.code == 0, resumed.err
    again = load_run(straight.folder, checkpoint="last").model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert (straight.folder / "checkpoints" / "after-stage-1.ckpt").is_file()


def test_the_loss_is_the_published_one():
    """L = 1/|T| sum w CE over the tokens of the trace alone, the program seen in both directions."""
    model = build(preset("rope", 12) | {"context_length": 10, "width": 16}).double()
    budget = Budget(tokens_per_step=1, default_tokens=1)
    task = CodeExecution(model=model, optim=AdamW(), budget=budget).double()
    weights = torch.tensor([10.0] * 12, dtype=torch.float64)
    weights[[3, 5]] = 1.0
    task.register_buffer("weights_V", weights, persistent=False)
    samples, prefixes = [[1, 4, 4, 2, 7, 3, 5, 2], [1, 6, 2, 7, 2]], [4, 3]
    found, _ = task.loss(collate(samples, prefixes, 0), weighted=True)
    expected = 0.0
    for ids, prompt in zip(samples, prefixes):
        mask = prefix(prompt)
        logits = model(torch.tensor([ids[:-1]]), mask=mask)[0, prompt - 1 :]
        asked = torch.tensor(ids[prompt:])
        expected += (weights[asked] * cross_entropy(logits, asked, reduction="none")).sum()
    torch.testing.assert_close(found, expected / 6, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("max_minutes=1", "a curriculum must know how many steps it has|needs max_steps"),
        ("tokenizer=bytes", "use tokenizer=traces"),
        ("task.beams=0", "beams: must be at least 1"),
        ("task.pretrained=nowhere/at-all", "config.json"),
    ],
)
def test_what_cannot_be_is_one_line(execute, argument, line):
    import re

    given = [argument] if argument.startswith("max") else [argument, "max_steps=2"]
    run = execute(*given, *(["max_steps=null"] if argument.startswith("max") else []))
    assert run.code == 2
    assert re.search(line, run.err) and run.err.count("error:") == 1


def test_other_data_are_refused(train):
    run = train("task=code_execution", "tokenizer=bytes", "max_steps=2")
    assert run.code == 2 and "use data=traces" in run.err


@pytest.mark.slow
def test_32_programs_are_learnt_by_heart(train, tmp_path):
    """100% trace accuracy on all three sets: nothing between data and metric loses a token."""
    write(tmp_path / "records", train=11)
    for name in ("singleline", "tutorial", "codenet"):
        text = (tmp_path / "records" / name / "train.jsonl").read_text()
        lines = text.splitlines(keepends=True)[: 10 if name == "singleline" else 11]
        for split in ("train", "val", "test"):
            (tmp_path / "records" / name / f"{split}.jsonl").write_text("".join(lines))
    mixture = {"singleline": 0.3, "tutorial": 0.35, "codenet": 0.35}
    curriculum = {
        "_target_": "tasks.code_execution.curriculum.Curriculum",
        "_convert_": "all",
        "stages": [{"mixture": mixture}],
    }
    given = choice(tmp_path, tmp_path / "records", curriculum=curriculum)
    run = train(
        *given, "model=gpt2", "size=nano", "model.context_length=288", "max_steps=300",
        "validate_every=100", "data.batch_size=8", data=False,
    )  # fmt: skip
    results = json.loads((run.folder / "results.json").read_text())
    for name in mixture:
        assert results[f"test/trace_accuracy@{name}"] == 100
    assert results["test/output_accuracy@codenet"] == 100
