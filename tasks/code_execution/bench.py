"""How many programs are traced a CPU-second: `python -m tasks.code_execution.bench`.

All CPU time counts: that of the caller, of the fork server and of its children. One process for each
program, then many in one, interleaved, the median of a few rounds. `generated` are programs of the
Tutorial set; `tutorial-size` is one program of that kind with thirty-five executed lines and up to
nine variables, and the goals are of that one.
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.code_execution.datasets import singleline, tutorial
from tasks.code_execution.trace import Refusal, Tracer

TUTORIAL_SIZE = """total = 0
values = [3, 1, 2]
for value in values:
    if value > 1:
        total += value
    else:
        total -= 1
    print(value, total)
i = 0
while i < 4:
    i += 1
word = 'abc'
parts = []
for letter in word:
    parts.append(letter * i)
print(''.join(parts))
"""
GOALS = {"one fork each": 300, "in batches": 2_000}  # tutorial-size programs a CPU-second


def workloads() -> dict[str, list[str]]:
    """Programs by name, each list as long as the longest batch."""
    draw = random.Random(0)
    return {
        "single line": [singleline.program(draw) for _ in range(200)],
        "tutorial, generated": [tutorial.composed(draw) for _ in range(200)],
        "tutorial-size": [TUTORIAL_SIZE] * 200,
    }


def programs_per_cpu_second(
    tracer: Tracer, codes: Sequence[str], *, batch: int, programs: int
) -> float:
    """Traces `programs` of the codes, `batch` in one process."""
    before = _cpu_seconds(tracer)
    for start in range(0, programs, batch):
        chosen = [codes[i % len(codes)] for i in range(start, start + batch)]
        found = tracer.trace_all(chosen)
        assert not all(isinstance(steps, Refusal) for steps in found)
    return programs / (_cpu_seconds(tracer) - before)


def _cpu_seconds(tracer: Tracer) -> float:
    """Of this process, the fork server, and all its children that have ended."""
    while True:
        try:
            return time.process_time() + sum(map(_of_process, _family(tracer.sandbox.process.pid)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a child ended between being listed and being read


def _of_process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in map(int, children) for p in _family(child))]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.code_execution.bench", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=int, default=400, help="of one measurement")
    options = parser.parse_args()
    batches = (1, 10, 50, 200)
    with Tracer() as tracer:
        print(f"Python {platform.python_version()}, {_processor()}, {os.cpu_count()} processors")
        print(f"layers: {', '.join(tracer.sandbox.layers)}")
        print("traced programs a CPU-second, by programs in one process")
        print(f"{'':20} {'steps':>6}" + "".join(f"{b:>9}" for b in batches))
        work = workloads()
        speeds: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for name, codes in work.items():
                for batch in batches:
                    speed = programs_per_cpu_second(
                        tracer, codes, batch=batch, programs=options.programs
                    )
                    speeds.setdefault((name, batch), []).append(speed)
        for name, codes in work.items():
            found = [s for s in tracer.trace_all(codes) if not isinstance(s, Refusal)]
            steps = statistics.mean(len(s) for s in found)
            row = "".join(f"{statistics.median(speeds[name, b]):9,.0f}" for b in batches)
            print(f"{name:20} {steps:6.1f}{row}")
        reached = {batch: statistics.median(speeds["tutorial-size", batch]) for batch in batches}
        best = max(reached[batch] for batch in batches[1:])
        for (goal, wanted), speed in zip(GOALS.items(), (reached[1], best)):
            said = "reached" if speed >= wanted else "missed"
            print(f"tutorial-size, {goal}: {speed:,.0f} a CPU-second, goal {wanted:,} {said}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
