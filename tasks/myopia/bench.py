"""What a myopic training step costs: `python -m tasks.myopia.bench`.

One process, one thread, CPU time: forward, backward and AdamW of the same model with the vanilla and
the myopic mixers, interleaved in rotating order; a figure is the median of the rounds' ratios to
vanilla. Memory, twice: the peak of what the step's tensors take, counted by torch's profiler, which is
exact; and the growth of the process's peak resident size, each in a fresh process, which is not (a few
percent either way on a machine that others use).
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from kernels.bench.measure import Clock, Row, interleaved, peak_growth, ratio
from zoo.bench import preset
from zoo.decoder import Decoder
from zoo.load import build

LAYERS, WIDTH, HEADS, LENGTH, BATCH = 4, 256, 4, 1024, 2
GOALS = {"kv": 1.0, "hidden": 1.35}
ARMS = ("vanilla", *GOALS)

MEMORY = """
from tasks.myopia.bench import new_model, new_step
def job(arm, position, length):
    return new_step(new_model(arm, position, length), length)
"""


def new_model(arm: str, position: str, length: int) -> Decoder:
    """The same weights for every arm."""
    node = preset(position, 256)
    node.update(context_length=length, num_layers=LAYERS, width=WIDTH, num_heads=HEADS)
    mixer = {"_target_": "zoo.mixers.softmax.SoftmaxAttention", "_partial_": True}
    if arm != "vanilla":
        mixer |= {"_target_": "zoo.mixers.myopic.MyopicAttention", "variant": arm}  # type: ignore[dict-item]
    node["mixer"] = mixer
    torch.manual_seed(0)
    return build(node, key="model")


def new_step(model: Decoder, length: int) -> Callable[[], Any]:
    """A whole training step on random tokens."""
    text = torch.randint(256, (BATCH, length + 1), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(text[:, :-1], text[:, 1:])[0].backward()
        optimizer.step()

    return step


def allocated(step: Callable[[], Any]) -> float:
    """MiB at the peak of one step, above what was there before."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    events = watched.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak / 2**20


def rows(position: str, length: int, rounds: int, memory_rounds: int) -> list[Row]:
    """The table: time and memory of each variant over vanilla."""
    shape = f"{LAYERS} layers, width {WIDTH}, {HEADS} heads, T {length}, B {BATCH}, {position}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calls = {arm: new_step(new_model(arm, position, length), length) for arm in ARMS}
        times = interleaved(calls, Clock("cpu"), rounds)
        tensors = {arm: allocated(call) for arm, call in calls.items()}
    finally:
        torch.set_num_threads(threads)
    grown: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(memory_rounds):
        for arm in ARMS:
            grown[arm].append(peak_growth(MEMORY, (arm, position, 64), (arm, position, length)))
    peak = {arm: statistics.median(values) for arm, values in grown.items()}
    found = []
    for arm, goal in GOALS.items():
        time = ratio(times, arm, "vanilla")
        found.append(Row("cpu", f"{arm}: time of a step", shape, "vanilla", time, goal))
        for name, of, bound in (("tensors", tensors, goal), ("resident", peak, None)):
            sizes = f"{of[arm]:.1f} of {of['vanilla']:.1f} MiB"
            value = of[arm] / of["vanilla"]
            found.append(Row("cpu", f"{arm}: memory, {name}", sizes, "vanilla", value, bound))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a myopic training step over vanilla's.")
    parser.add_argument("--position", default="gpt2", help="a model of conf/model (default: gpt2)")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of timing (default: %(default)s)")
    parser.add_argument("--memory-rounds", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    table = Table(title=f"torch {torch.__version__}, {platform.processor() or platform.machine()}")
    for name in ("quantity", "shape", "over vanilla", "goal", "verdict"):
        table.add_column(name)
    found = rows(arguments.position, arguments.length, arguments.rounds, arguments.memory_rounds)
    for row in found:
        assert row.value is not None
        goal = "" if row.goal is None else f"at most {row.goal}"
        table.add_row(row.name, row.shape, f"{row.value:.3f}", goal, row.verdict)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
