"""The benchmark: wrong results stop it, unmeasured rows stay empty, and what it writes can be read."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.attention import reference
from kernels.attention.masks import blockwise_causal, sliding_window
from kernels.attention.op import attention
from kernels.bench import cpu, gpu, sm90_rows
from kernels.bench.__main__ import line, report
from kernels.bench.measure import (
    Row,
    check,
    check_tail,
    interleaved,
    peak_growth,
    poisoned,
    ratio,
)

ROOT = Path(__file__).parent.parent.parent


def exact(mask):
    return lambda q, k, v: reference.attention(q, k, v, mask)[0]


def test_a_wrong_result_stops_it():
    """A fast kernel that is wrong must not win."""
    inputs, mask = cpu.draw(400, 2), blockwise_causal(64)
    check_tail("right", lambda q, k, v: attention(q, k, v, mask), exact(mask), inputs)
    wrong = {
        "output": lambda q, k, v: attention(q, k, v, sliding_window(100)),
        "dk": lambda q, k, v: attention(q, k.detach(), v, mask) + 0 * k,
        "dv": lambda q, k, v: attention(q, k, v.detach(), mask) + 0 * v,
    }
    for part, call in wrong.items():
        with pytest.raises(RuntimeError, match=f"wrong, {part}: the result is off by"):
            check_tail("wrong", call, exact(mask), inputs)


def test_memory_that_was_never_written_is_found():
    """A kernel that skips rows passes every check on memory that happens to be right already."""
    with poisoned():
        room = torch.empty(3)
    with pytest.raises(RuntimeError, match="off by nan"):
        check("skipped", room, torch.ones(3))


def test_cpu_rows_check_what_they_time():
    """The checks run inside the rows; here with a mask that hides nothing of their error."""
    cpu.check_attention(sliding_window(70), 600)
    with pytest.raises(RuntimeError, match="off by"):
        check("loss", torch.tensor([1.0 + 1e-4]), torch.tensor([1.0]))


def test_each_round_runs_every_call_in_another_order():
    """Whoever always runs second finds a warm cache."""
    order = []

    class Count:
        def seconds(self, call):
            call()
            return float(len(order))

    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(calls, Count(), 3)
    rounds = ["".join(order[i : i + 3]) for i in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert all(len(x) == 3 for x in times.values())  # the first round does not count
    assert ratio({"x": [1, 9, 2], "y": [2, 3, 2]}, "x", "y") == 1.0


def test_peak_growth_sees_what_a_call_holds():
    """Memory rows come from fresh processes: the parent's own peak must not hide the child's."""
    big = torch.zeros(2**26)  # 256 MiB here
    program = "def job(n):\n    return lambda: torch.zeros(n * 2**18).add_(1).sum()"
    grown = peak_growth(program, (1,), (64,))
    assert 60 < grown < 80, grown
    del big
    with pytest.raises(RuntimeError, match="NameError"):
        peak_growth("def job(n):\n    return missing", (1,), (1,))


def test_gpu_rows_without_a_gpu_are_empty():
    """A figure that nobody measured is a lie."""
    rows = list(gpu.unmeasured())
    assert all(row.value is None and row.verdict == "not measured" for row in rows)
    goals = {(row.name, row.baseline, row.goal) for row in rows}
    assert {
        ("BCA (h 512) forward", "FlexAttention, same mask", 1.0),
        ("BCA (h 512) forward", "cuDNN SDPA, full causal", 0.28),
        ("BCA (h 512) backward", "FlexAttention, same mask", 0.85),
        ("causal forward", "cuDNN SDPA", 1.15),
        ("causal forward", "cuDNN SDPA", 1.4),
        ("causal forward with xPos", "the same kernel without", 1.1),
        ("causal forward with xPos", "the same kernel without", 1.04),
        ("momentum scan", "a copy's bandwidth", 0.75),
        ("myopic backward", "FlexAttention, standard", 0.5),
        ("myopic backward", "FlashAttention-2 SDPA, standard", 0.6),
        ("myopic backward", "cuDNN SDPA, standard", 0.85),
    } <= goals


def test_an_asked_for_backend_that_did_not_run_is_named():
    """'Faster than SDPA' means nothing without the kernel's name."""
    inputs = cpu.draw(64, 1)
    assert not gpu._runs(gpu.CUDNN, gpu.sdpa(gpu.CUDNN), inputs)  # a CPU has no such backend
    assert gpu._runs(gpu.FA2, gpu.sdpa(gpu.FA2), inputs)
    with pytest.raises(RuntimeError, match="cuDNN SDPA was asked for, ScaledDotProductFlash"):
        gpu._runs(gpu.CUDNN, gpu.sdpa(gpu.FA2), inputs)


def test_what_it_writes(tmp_path, capsys):
    """bench.json holds every row with its verdict; a picture only where there is something to show."""
    met = Row("cpu", "fast", "T 4k", "slow", 0.5, 1.0)
    rows = [
        met,
        replace(met, name="slow", value=2.0),
        replace(met, device="cuda", value=None),
        Row("sm_90", "spills", "all", "-", 0, 0, unit=""),
        Row("cpu", "bandwidth", "T 4k", "copy", 0.8, 0.75, at_most=False),
    ]
    report(rows, tmp_path, 1.0)
    written = json.loads((tmp_path / "bench.json").read_text())
    verdicts = [row["verdict"] for row in written["rows"]]
    assert verdicts == ["met", "MISSED", "not measured", "met", "met"]
    assert written["rows"][2]["value"] is None and torch.__version__ in written["machine"]
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["cpu.png"]
    assert "goals missed: slow (T 4k)" in capsys.readouterr().out
    assert "<= 1x" in line(rows[0]) and ">= 0.75x" in line(rows[4]) and " - " in line(rows[2])


def test_sm90_summary_reports_a_spill():
    """The three promises, each broken by one kernel."""
    pytest.importorskip("triton")
    good = dict(stack=0, local=0, shared=1024, old_mma=0, dots=2, wgmma=4)
    assert all(row.verdict == "met" for row in sm90_rows.summary([good]))
    for bad in (dict(local=3), dict(stack=8), dict(shared=240_000), dict(wgmma=0), dict(old_mma=1)):
        verdicts = [row.verdict for row in sm90_rows.summary([good, good | bad])]
        assert verdicts.count("MISSED") == 1, bad
    assert all(row.value is None for row in sm90_rows.summary(None))


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path):
    """The command of the README, from end to end."""
    subprocess.run(
        [sys.executable, "-m", "kernels.bench", "--device", "cpu", "--out", tmp_path],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},  # which the compiling rows must not inherit
        check=True,
    )
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["device"] for row in rows} >= {"cpu", "cuda"}
    assert all(row["value"] is not None for row in rows if row["device"] == "cpu")
    assert (tmp_path / "cpu.png").exists()
