"""Searching settings with Optuna: real runs, a study that goes on, and clear refusals."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, nano

from tasks.errors import UserError
from tasks.search import space


def test_the_space_is_written_in_hydras_grammar():
    chosen, fixed = space(
        [
            "model=rope,xpos",
            "optim.lr=tag(log,interval(1e-4,1e-2))",
            "model.num_layers=range(1,4)",
            "model.dropout=interval(0,0.2)",
            "data.batch_size=int(interval(2,8))",
            "max_steps=5",
        ]
    )
    assert fixed == ["max_steps=5"]
    assert chosen["model"].choices == ("rope", "xpos")
    assert (chosen["optim.lr"].low, chosen["optim.lr"].high, chosen["optim.lr"].log) == (
        1e-4,
        1e-2,
        True,
    )
    assert chosen["model.num_layers"].choices == ("1", "2", "3")
    assert (chosen["model.dropout"].high, chosen["model.dropout"].log) == (0.2, False)
    assert (chosen["data.batch_size"].low, chosen["data.batch_size"].high) == (2, 8)


@pytest.mark.parametrize("overrides", [["max_steps=5"], ["model=a,b", "optim.lr=interval("]])
def test_what_is_no_space_is_refused_in_one_line(overrides):
    with pytest.raises(UserError, match=r"nothing to search|not an override"):
        space(overrides)


def test_a_search_finds_its_best_and_goes_on_after_a_stop(tmp_path, corpus):
    """The same command finishes what is missing, never what is done; its best is a run's number."""
    folder = tmp_path / "search"
    given = [
        "model=rope,no_such_model",
        "optim.lr=1e-9,1e-2",
        "max_steps=3",
        *nano(tmp_path, corpus),
    ]
    given.remove("max_steps=6")

    def search(trials: int) -> str:
        arguments = ["--trials", str(trials), "--folder", str(folder), "--sampler", "random"]
        command = [sys.executable, "-m", "tasks.search", *arguments, *given]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    first = search(3)
    runs = {f.name for f in folder.iterdir() if f.is_dir()}
    assert runs == {"0", "1", "2"}
    assert "failed" in first and "no_such_model" in first, "one that cannot run is told and passed"
    second = search(4)
    assert {f.name for f in folder.iterdir() if f.is_dir()} == {"0", "1", "2", "3"}
    assert len(re.findall(r"^trial ", second, re.M)) == 1, "what is done is not run again"
    losses = {
        path.parent.name: json.loads(path.read_text())["val/loss"]
        for path in folder.glob("*/results.json")
    }
    best = min(losses, key=losses.__getitem__)
    line = next(line for line in second.splitlines() if line.startswith("val/loss"))
    assert line.endswith(f"({folder / best})") and f"{losses[best]:.4f}" in line
    assert "best: python train.py" in second and (folder / "comparison.html").is_file()
