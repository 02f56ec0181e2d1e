"""Interleaved timing, peak memory in fresh processes, and the rows that the benchmark prints.

A machine that others use too is noisy in milliseconds and steady in ratios: every figure is a median
over rounds, and in each round all variants run, in rotating order. On a CPU the clock is this
process's CPU time and there is one thread; on a GPU, events around a call on a cold L2 cache.

No time of a wrong result is of use: every call is first checked against float64 on fresh random data,
with NaN in whatever memory it allocates.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

Call = Callable[[], object]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
TAIL = 256  # rows at the end of a sequence that check_tail compares


@dataclass(frozen=True)
class Row:
    """One line of the table: value against a goal. value None: not measured here."""

    device: str
    name: str
    shape: str
    baseline: str
    value: float | None
    goal: float | None
    at_most: bool = True
    unit: str = "x"

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        within = self.value <= self.goal if self.at_most else self.value >= self.goal
        return "met" if within else "MISSED"

    @property
    def share(self) -> float | None:
        """Of the goal used up, at most 1 where it is met; None without a value or a goal above 0."""
        if not self.value or not self.goal:
            return None
        return self.value / self.goal if self.at_most else self.goal / self.value

    def record(self) -> dict:
        return asdict(self) | {"verdict": self.verdict}


class Clock:
    """Seconds of a call on a device."""

    def __init__(self, device: str):
        self.device = device
        self.cold = None
        if device == "cuda":
            self.cold = torch.empty(64 * 2**20, dtype=torch.int32, device="cuda")

    def seconds(self, call: Call) -> float:
        if self.cold is None:
            start = time.process_time()
            call()
            return time.process_time() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(8):  # larger than the L2 cache, and long enough to hide the launches
            self.cold.zero_()
        first.record()
        call()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3


def interleaved(calls: dict[str, Call], clock: Clock, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one round that does not count."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for r in range(-1, rounds):
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            seconds = clock.seconds(calls[name])
            if r >= 0:
                times[name].append(seconds)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times[over], times[under]))


def median(times: dict[str, list[float]], name: str) -> float:
    """Seconds."""
    return statistics.median(times[name])


def backward_of(out: Tensor, inputs: tuple[Tensor, ...]) -> Call:
    """A call that runs the backward of `out` again and again."""
    upstream = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, inputs, upstream, retain_graph=True)


def both_of(forward: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    """A call that runs forward and backward."""
    upstream = torch.randn_like(forward(*inputs))
    return lambda: torch.autograd.grad(forward(*inputs), inputs, upstream)


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, torch.empty hands out NaN: what is read before it is written shows in the result."""
    chosen = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other people's kernels' determinism
            yield
    finally:
        torch.use_deterministic_algorithms(chosen)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def check(name: str, got: Tensor, want: Tensor, roundings: float = 16) -> None:
    """RuntimeError unless got is want to so many roundings of got's dtype of the largest value."""
    error = (got.double() - want.double()).abs().max() / want.double().abs().max()
    eps = torch.finfo(got.dtype).eps
    if not error <= roundings * eps:
        raise RuntimeError(
            f"{name}: the result is off by {error / eps:.0f} roundings of {got.dtype}"
        )


def check_tail(
    name: str,
    call: Attend,
    exact: Attend,
    inputs: tuple[Tensor, ...],
    *,
    roundings: float = 16,
    poison: bool = True,
) -> None:
    """call's output and gradients at the last TAIL positions of one head, at the length timed.

    exact: the reference; given the last queries alone it yields all that these positions ever get,
    for under a causal mask their keys are seen by no other query.
    """
    fresh = tuple(torch.randn_like(x).requires_grad_() for x in inputs)
    with poisoned() if poison else nullcontext():
        out = call(*fresh)
        upstream = torch.randn_like(out)
        got = [out, *torch.autograd.grad(out, fresh, upstream)]
    wide = [x[:1, :1].detach().double() for x in fresh]
    wide[0] = wide[0][:, :, -TAIL:]
    wide = [x.requires_grad_() for x in wide]
    out = exact(*wide)
    want = [out, *torch.autograd.grad(out, wide, upstream[:1, :1, -TAIL:].double())]
    for part, x, y in zip(("output", "dq", "dk", "dv"), got, want):
        check(f"{name}, {part}", x[:1, :1, -TAIL:], y[:, :, -TAIL:], roundings)


PEAK = """
import json, pathlib, resource, sys
import torch

def peak():
    try:  # not ru_maxrss, which on Linux starts from the parent's
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except OSError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (2**20 if sys.platform == "darwin" else 2**10)

def forget():
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    except OSError:
        pass

torch.set_num_threads(1)
warm, measured = json.loads(sys.argv[1])
"""
MEASURE = """
job(*warm)()
call = job(*measured)
forget()
before = peak()
call()
print(peak() - before)
"""


def peak_growth(program: str, warm: Sequence[object], measured: Sequence[object]) -> float:
    """MiB by which a call grows the peak resident size of a fresh process of one thread.

    program: Python source that defines job(*arguments), which allocates inputs and returns the call.
    warm: arguments of a small job to run first, so that libraries' own memory does not count.
    """
    code = f"{PEAK}{program}\n{MEASURE}"
    sizes = json.dumps([warm, measured])
    done = subprocess.run([sys.executable, "-c", code, sizes], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory measurement failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout)
