"""Reading run folders: whatever a run left behind, the report shows the run and never falls over."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

from zoo.report.runs import find_runs, natural, read_run

LONG_AGO = time.time() - 24 * 3600


def test_a_whole_run(run_folder, tmp_path):
    rows = [
        {"step": 10, "tokens": 640, "seconds": 1.5, "train/loss": 2.5},
        {"step": 10, "tokens": 640, "seconds": 1.6, "val/loss": 2.6},
        {"step": 20, "tokens": 1280, "seconds": 3.0, "train/loss": 2.0},
    ]
    folder = run_folder(
        tmp_path / "0",
        model="xpos",
        seed=3,
        results={"test/loss": 1.5, "params": 10, "status": "finished", "ok": True},
        rows=rows,
        plots=1,
    )
    run = read_run(folder)
    assert (run.status, run.seed, run.last_step, run.duration) == ("finished", "3", 20, 125.0)
    assert run.results == {"test/loss": 1.5, "params": 10.0}
    assert run.config["model.context_length"] == 256
    assert run.choices["model"] == "xpos"
    assert run.curves["train/loss"].step == [10, 20]
    assert run.curves["train/loss"].tokens == [640, 1280]
    assert run.curves["val/loss"].value == [2.6]
    assert [path.name for path in run.plots] == ["plot0.png"]
    assert run.problems == []


def test_a_resumed_run_logs_a_step_twice_and_the_later_row_counts(run_folder, tmp_path):
    rows = [
        {"step": s, "train/loss": v} for s, v in [(1, 9.0), (2, 8.0), (3, 7.0), (2, 5.0), (3, 4.0)]
    ]
    run = read_run(run_folder(tmp_path / "0", rows=rows))
    assert run.curves["train/loss"].value == [9.0, 5.0, 4.0]


def test_an_empty_cell_was_not_logged_and_nan_was(run_folder, tmp_path):
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "b": 1.0}, {"step": 3, "a": math.nan}]
    run = read_run(run_folder(tmp_path / "0", rows=rows))
    assert run.curves["a"].step == [1, 3]
    assert math.isnan(run.curves["a"].value[1])


def test_a_killed_run_keeps_its_whole_rows(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0", status="interrupted")
    (folder / "metrics.csv").write_text("step,tokens,seconds,train/loss\n1,9,1,2.5\n2,18,2,2.")
    run = read_run(folder)
    assert run.status == "interrupted"
    assert run.curves["train/loss"].step == [1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [1,\nb: {"),
        ("config.yaml", "- a list"),
        ("status.json", '{"status": "fin'),
        ("results.json", "[1, 2]"),
        ("results.json", "\x00\xff"),
        ("series.json", "7"),
    ],
)
def test_a_damaged_file_is_a_note_and_the_rest_is_read(run_folder, tmp_path, name, content):
    folder = run_folder(
        tmp_path / "0", results={"test/loss": 1.0}, rows=[{"step": 1, "train/loss": 2}]
    )
    (folder / name).write_text(content)
    run = read_run(folder)
    assert any(note.startswith(name) for note in run.problems)
    assert "train/loss" in run.curves


def test_damaged_metrics_do_not_hide_the_run(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0", results={"test/loss": 1.0})
    (folder / "metrics.csv").write_bytes(b"step,train/loss\n1,2\nx,\xff\n3\n\0\n4,oops\n")
    run = read_run(folder)
    assert run.curves["train/loss"].step == [1, 4]
    assert math.isnan(run.curves["train/loss"].value[1])


def test_a_running_run_whose_process_is_gone_is_unfinished(run_folder, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = run_folder(tmp_path / "0", status="running", extra={"process": gone.pid})
    alive = run_folder(tmp_path / "1", status="running", extra={"process": os.getpid()})
    assert read_run(dead).status == "unfinished"
    assert read_run(alive).status == "running"


def test_a_process_of_another_machine_is_not_looked_up_here(run_folder, tmp_path):
    host = {"host": "another-machine"}
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = run_folder(tmp_path / "0", status="running", extra={"process": gone.pid, "host": host})
    assert read_run(folder).status == "running"


def test_a_running_run_that_went_silent_is_unfinished(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0", status="running", rows=[{"step": 1, "train/loss": 2}])
    assert read_run(folder).status == "running"
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert read_run(folder).status == "unfinished"


def test_without_a_status_the_results_tell(run_folder, tmp_path):
    assert read_run(run_folder(tmp_path / "0", status=False)).status == "unfinished"
    done = run_folder(tmp_path / "1", status=False, results={"test/loss": 1.0})
    failed = run_folder(tmp_path / "2", status=False, results={"status": "failed"})
    odd = run_folder(tmp_path / "3", status="exploded")
    assert read_run(done).status == "finished"
    assert read_run(failed).status == "failed"
    assert read_run(odd).status == "unfinished" and "exploded" in read_run(odd).problems[0]


def test_runs_are_found_in_natural_order_with_empty_ones_kept(run_folder, tmp_path):
    for name in ("10", "2", "named"):
        run_folder(tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "3").mkdir()  # a job killed before it wrote anything
    for other in (".hydra", "wandb/run-1/files", "3/.hydra"):
        (tmp_path / "sweep" / other).mkdir(parents=True)
    (tmp_path / "sweep" / "wandb" / "run-1" / "files" / "config.yaml").write_text("a: 1")
    (tmp_path / "sweep" / "multirun.yaml").write_text("a: 1")
    runs = find_runs([tmp_path / "sweep"])
    assert [run.name for run in runs] == ["2", "3", "10", "named"]
    assert [run.status for run in runs] == ["finished", "unfinished", "finished", "finished"]


def test_sweeps_and_single_runs_mix_and_count_once(run_folder, tmp_path):
    run_folder(tmp_path / "a" / "0")
    run_folder(tmp_path / "b" / "0")
    runs = find_runs([tmp_path / "a", tmp_path / "b" / "0", tmp_path / "a" / "0"])
    assert [run.name for run in runs] == ["a/0", "b/0"]
    assert [run.name for run in find_runs([tmp_path / "b" / "0"])] == ["0"]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run folders in"):
        find_runs([tmp_path])
    with pytest.raises(ValueError, match="no such folder"):
        find_runs([tmp_path / "missing"])


def test_natural_order():
    assert sorted(["run10", "run9", "a"], key=natural) == ["a", "run9", "run10"]


def test_huge_and_odd_numbers_in_results_are_no_crash(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0")
    odd = {"seed": 3, "a": 10**400, "b": None, "c": {"d": 1}}
    text = json.dumps(odd)[:-1] + ', "e": NaN, "f": Infinity, "g": 1e999}'
    (folder / "results.json").write_text(text)
    run = read_run(folder)
    assert set(run.results) == {"e", "f", "g"}


def test_the_error_is_one_line_and_a_resumed_run_has_no_duration(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0", error="one\ntwo  " + "three " * 500, status="failed")
    assert read_run(folder).error.startswith("one two three three")
    assert len(read_run(folder).error) <= 600
    again = run_folder(tmp_path / "1", extra={"resumed": ["2026-01-06T10:00:00"]})
    assert read_run(again).duration is None


def test_the_machine_is_its_hardware_not_its_name(run_folder, tmp_path):
    folder = run_folder(tmp_path / "0", extra={"host": {"cpu": "A", "host": "node17"}})
    assert read_run(folder).host == {"cpu": "A"}
