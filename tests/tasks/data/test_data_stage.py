"""A stage is built once and is never half there, whatever is killed and whenever."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.data.stage import digest, stage
from tasks.errors import UserError

ROOT = Path(__file__).parents[3]


def python(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_built_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(1)
        (folder / "x").write_text("whole")

    first = stage(tmp_path, "thing", {"a": 1, "b": [2, 3]}, build)
    again = stage(tmp_path, "thing", {"b": [2, 3], "a": 1}, build)
    other = stage(tmp_path, "thing", {"a": 2, "b": [2, 3]}, build)
    assert first == again != other and len(calls) == 2
    assert (first / "x").read_text() == "whole"
    assert json.loads((first / "stage.json").read_text()) == {"a": 1, "b": [2, 3]}


def test_failure_leaves_nothing_and_is_tried_again(tmp_path):
    def fail(folder):
        (folder / "x").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stage(tmp_path, "thing", {}, fail)
    assert not [p for p in (tmp_path / "thing").iterdir() if p.is_dir()]
    folder = stage(tmp_path, "thing", {}, lambda f: (f / "y").write_text("z") and None)
    assert sorted(p.name for p in folder.iterdir()) == ["stage.json", "y"]


def test_killed_in_the_middle(tmp_path):
    """SIGKILL while writing: the next process builds anew and sees nothing of the half."""
    child = python(
        """
        import sys, time
        from pathlib import Path
        from tasks.data.stage import stage
        def build(folder):
            (folder / "half").write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        stage(Path(sys.argv[1]), "thing", {"a": 1}, build)
        """,
        str(tmp_path),
    )
    assert child.stdout is not None and child.stdout.readline().strip() == "writing"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "thing" / digest({"a": 1})).exists()
    folder = stage(tmp_path, "thing", {"a": 1}, lambda f: (f / "x").write_text("whole") and None)
    assert sorted(p.name for p in folder.iterdir()) == ["stage.json", "x"]


def test_ranks_build_it_once(tmp_path):
    """Two processes at once: one builds, the other waits for it and takes the result."""
    code = """
        import os, sys, time
        from pathlib import Path
        from tasks.data.stage import stage
        def build(folder):
            time.sleep(0.5)
            (folder / "who").write_text(str(os.getpid()))
        print((stage(Path(sys.argv[1]), "thing", {}, build) / "who").read_text())
    """
    ranks = [python(code, str(tmp_path)) for _ in range(3)]
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1


def test_no_space_is_one_clear_line(tmp_path):
    """A real failed write: the system refuses to let a file grow. Nothing is left behind."""
    child = python(
        """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from tasks.data.arrow import Column, write_batch
        from tasks.data.stage import stage
        from tasks.errors import UserError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        def build(folder):
            with Column(folder / "a.raw", np.int64) as column:
                column.append(np.arange(100_000))
            with Column(folder / "b.raw", np.int64) as column2:
                column2.append(np.arange(100_000))
            write_batch(folder / "big.arrow", {"a": column, "b": column2})
        try:
            stage(Path(sys.argv[1]), "thing", {}, build)
        except UserError as error:
            print(error)
        """,
        str(tmp_path),
    )
    out, err = child.communicate()
    assert "no space on disk" in out and "paths.cache" in out and out.count("\n") == 1, err
    assert not [p for p in (tmp_path / "thing").iterdir() if p.is_dir()]


def test_cache_that_cannot_be_written_names_the_key(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"paths\.cache"):
        stage(tmp_path / "file" / "cache", "thing", {}, lambda folder: None)
    with pytest.raises(UserError, match=r"paths\.cache"):
        stage(tmp_path / "file", "thing", {}, lambda folder: None)


def test_errors_of_the_work_itself_are_not_blamed_on_the_cache(tmp_path):
    def build(folder):
        (tmp_path / "input that is missing").read_text()

    with pytest.raises(FileNotFoundError):
        stage(tmp_path / "cache", "thing", {}, build)


def test_left_over_lock_does_not_block(tmp_path):
    """The lock file of a process that died stays on disk; only a living holder may block."""
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / f"{digest({})}.lock").touch()
    stage(tmp_path, "thing", {}, lambda folder: None)
    assert os.path.isdir(tmp_path / "thing" / digest({}))
