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
    """Without an account: logged on disk, one wandb run a job, and how to upload is said."""
    run = train("-m", "model=nope", "seed=0,1", "max_steps=2", "logger=[csv,wandb]")
    assert run.code == 0, run.err
    sweep = the_sweep(tmp_path)
    folders = [next((sweep / str(i) / "wandb").glob("offline-run-*")) for i in range(2)]
    assert folders[0].name != folders[1].name
    assert run.err.count("wandb sync") == 2
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
