"""Many runs from one command: all are run, all are compared, and an interrupted sweep goes on."""

import csv
import json
from pathlib import Path

import pytest


def the_sweep(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs" / "sweeps").glob("*/*")
    return folder


def status(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text())["status"]


def test_sweep_compares_its_runs(train, tmp_path):
    run = train("-m", "model=gpt2,xpos", "seed=0,1", "max_steps=4")
    assert run.code == 0, run.err
    sweep = the_sweep(tmp_path)
    assert {p.name for p in sweep.iterdir() if p.is_dir()} == {"0", "1", "2", "3"}
    rows = list(csv.DictReader((sweep / "comparison.csv").open()))
    assert any("xpos" in str(row.values()) for row in rows)
    markdown = (sweep / "comparison.md").read_text()
    assert "gpt2" in markdown and "±" in markdown
    assert "<html" in (sweep / "comparison.html").read_text()
    assert "comparison.html" in run.err
    losses = [json.loads((sweep / f"{i}/results.json").read_text())["val/loss"] for i in range(4)]
    best = min(range(4), key=losses.__getitem__)
    assert f"best: {sweep / str(best)} (val/loss {losses[best]:.4f})" in run.err


def test_sweep_goes_on_past_a_failing_job_and_says_so(train, tmp_path):
    run = train("-m", "model=rope,nope", "model.num_heads=3,2", "max_steps=2")
    assert run.code == 1
    sweep = the_sweep(tmp_path)
    assert [status(sweep / str(i)) for i in range(4)] == ["failed", "finished"] * 2
    assert "model.width" in run.err and "2 of 4 runs did not finish" in run.err
    assert "model.width" in (sweep / "comparison.html").read_text(), "failures are shown"


def test_interrupted_sweep_goes_on_without_running_finished_jobs_again(
    train, tmp_path, monkeypatch
):
    from tasks import run as module

    whole, calls = module.run, []

    def killed_at_second(config, folder, *, continued):
        calls.append(folder.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(config, folder, continued=continued)

    arguments = ("-m", "model=nope", "seed=0,1,2", "max_steps=2")
    monkeypatch.setattr(module, "run", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments)
    again = train(*arguments, "sweep.resume=true")
    assert again.code == 0, again.err
    assert calls == ["0", "1", "1", "2"], "job 0 was done"
    sweep = the_sweep(tmp_path)
    assert [status(sweep / str(i)) for i in range(3)] == ["finished"] * 3
    assert (sweep / "comparison.html").is_file()


def test_wandb_runs_offline_in_one_group_a_run_each(train, tmp_path):
    """Without an account: logged on disk, one wandb run a job, and how to upload is said. Read back,
    each run has its group, the config a setting at a time, the metrics and the results."""
    run = train("-m", "model=nope", "seed=0,1", "max_steps=2", "logger=[csv,wandb]")
    assert run.code == 0, run.err
    sweep = the_sweep(tmp_path)
    folders = [next((sweep / str(i) / "wandb").glob("offline-run-*")) for i in range(2)]
    assert folders[0].name != folders[1].name
    assert run.err.count("wandb sync") == 2
    groups = set()
    for i, folder in enumerate(folders):
        found = offline_run(next(folder.glob("run-*.wandb")))
        groups.add(found["group"])
        assert found["config"]["model.width"] == 64 and found["config"]["choice/model"] == "nope"
        assert found["config"]["seed"] == i
        results = json.loads((sweep / str(i) / "results.json").read_text())
        assert found["summary"]["test/loss"] == pytest.approx(results["test/loss"])
        assert any("val/loss" in row for row in found["history"])
    assert len(groups) == 1 and groups != {""}


def test_a_tasks_curves_are_logged_as_wandb_tables(train, tmp_path):
    run = train(
        "model=nope", "task=extrapolation", "max_steps=2", "task.speed=false", "logger=wandb"
    )
    assert run.code == 0, run.err
    folder = next((run.folder / "wandb").glob("offline-run-*"))
    found = offline_run(next(folder.glob("run-*.wandb")))
    names = {name for row in found["history"] for name in row}
    assert any(name.startswith("table/perplexity") for name in names), names


def offline_run(path: Path) -> dict:
    """What an offline wandb file holds: its records are in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = path.read_bytes(), 7, b""
    found: dict = {"config": {}, "summary": {}, "history": [], "group": ""}

    def items(messages) -> dict:
        return {"/".join(m.nested_key) or m.key: json.loads(m.value_json) for m in messages}

    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in (1, 4):  # the first or a middle part of a record
            continue
        record, whole = Record.FromString(whole), b""
        if record.run.run_id:
            found["group"] = record.run.run_group
            found["config"] |= items(record.run.config.update)
        found["config"] |= items(record.config.update)
        found["summary"] |= items(record.summary.update)
        if record.history.item:
            found["history"].append(items(record.history.item))
    return found
