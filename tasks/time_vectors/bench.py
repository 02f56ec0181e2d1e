"""combine beside mergekit, interleaved:  python -m tasks.time_vectors.bench --mergekit VENV

Two models of `--millions` float32 numbers, B + 0.5 (M - B) by both, `--rounds` times in turn:

    whole process      from the command to its end
    arithmetic alone   within a process that has imported all it needs
    memory             peak resident set, less that of the command's --help

VENV is a virtual environment with mergekit (`python -m venv VENV && VENV/bin/pip install mergekit`); it is
no dependency of this project. Medians and ratios are printed and, with --output, written as JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tasks.environment import hardware
from tasks.time_vectors.output import Growing, Slot

ROOT = Path(__file__).resolve().parents[2]
OURS_ALONE = """
import sys, time
from tasks.time_vectors.arithmetic import combine
start = time.perf_counter()
combine(sys.argv[1], [(0.5, sys.argv[2])], sys.argv[3])
print(time.perf_counter() - start)
"""
THEIRS_ALONE = """
import sys, time
from mergekit.scripts.merge_raw_pytorch import main
start = time.perf_counter()
main([sys.argv[1], sys.argv[2]], standalone_mode=False)
print(time.perf_counter() - start)
"""


def make_model(path: Path, numbers: int, seed: int) -> None:
    """A file of random float32 matrices, written a matrix at a time."""
    draw = np.random.default_rng(seed)
    count = max(1, numbers // (2048 * 2048))
    slots = {f"layers.{i}.weight": Slot("F32", (2048, 2048)) for i in range(count)}
    file = Growing(path.parent, slots, {"format": "pt"})
    for name in slots:
        values = draw.standard_normal((2048, 2048), dtype=np.float32)
        file.write(name, 0, values.reshape(-1).view(np.uint8))
    file.name(path, sync=True)
    file.close()


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak resident memory in MB, and what a command printed last."""
    printed = folder / "printed.txt"
    start = time.perf_counter()
    with printed.open("w") as out, (folder / "errors.txt").open("w") as errors:
        pid = os.posix_spawn(
            command[0],
            command,
            {**os.environ, "PYTHONPATH": str(ROOT)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
            ],
        )
        peak, ended = 0.0, 0
        while not ended:
            peak = max(peak, _peak(pid))
            time.sleep(0.002)
            ended, status = os.waitpid(pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    if status:
        reason = (folder / "errors.txt").read_text()[-500:]
        raise RuntimeError(f"{' '.join(command)} failed: {reason}")
    lines = printed.read_text().split()
    return seconds, peak, lines[-1] if lines else ""


def _peak(pid: int) -> float:
    """Peak resident MB of a process so far; what wait4 says would count its parent's before exec."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) / 1024 if found else 0.0


def measure(mergekit: Path, numbers: int, rounds: int, folder: Path) -> dict[str, float]:
    """Medians by name."""
    b, m = folder / "b.safetensors", folder / "m.safetensors"
    for seed, path in enumerate((b, m)):
        make_model(path, numbers, seed)
    config = folder / "config.yaml"
    models = [{"model": str(m), "parameters": {"weight": 0.5}}]
    config.write_text(
        json.dumps(
            {
                "merge_method": "task_arithmetic",
                "base_model": str(b),
                "models": models,
                "dtype": "float32",
            }
        )
    )
    ours = [sys.executable, "-m", "tasks.time_vectors.arithmetic"]
    theirs = str(mergekit / "bin" / "mergekit-pytorch")
    python = str(mergekit / "bin" / "python")
    out, other = folder / "o.safetensors", folder / "theirs"
    arguments = ["combine", "--base", str(b), f"--term=0.5={m}", "--output", str(out)]
    commands = {
        "ours": [*ours, *arguments],
        "mergekit": [theirs, str(config), str(other)],
        "ours alone": [sys.executable, "-c", OURS_ALONE, str(b), str(m), str(out)],
        "mergekit alone": [python, "-c", THEIRS_ALONE, str(config), str(other)],
    }
    found: dict[str, list[float]] = {}
    floor = {
        "ours": timed([*ours, "--help"], folder)[1],
        "mergekit": timed([theirs, "--help"], folder)[1],
    }
    for turn in range(rounds + 1):  # the first warms the page cache
        for name, command in commands.items():
            if name.startswith("ours"):
                out.unlink(missing_ok=True)
            seconds, memory, printed = timed(command, folder)
            if turn:
                alone = name.endswith("alone")
                found.setdefault(f"{name}, s", []).append(float(printed) if alone else seconds)
                if not alone:
                    grown = memory - floor[name]
                    found.setdefault(f"{name}, MB above start", []).append(grown)
        check(out, other, b, m)
    medians = {name: statistics.median(values) for name, values in found.items()}
    medians["ratio, whole process"] = medians["ours, s"] / medians["mergekit, s"]
    medians["ratio, arithmetic alone"] = medians["ours alone, s"] / medians["mergekit alone, s"]
    return medians


def check(ours: Path, theirs: Path, base: Path, model: Path) -> None:
    """Raises RuntimeError where the two did not compute the same."""
    from tasks.time_vectors.linear import read_slice
    from tasks.time_vectors.weights import open_weights

    files = [*theirs.glob("*.safetensors")]
    found: dict = {}
    for path in (ours, *files):
        weights = open_weights(path)
        for name, entry in weights.entries.items():
            values = read_slice(weights, entry, 0, min(entry.size, 4096), np.dtype(np.float32))
            found.setdefault(name, []).append(values)
        weights.close()
    apart = max(float(np.abs(a - b).max()) for a, b in found.values())
    if apart > 1e-6:
        raise RuntimeError(f"the results differ by {apart}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.time_vectors.bench")
    parser.add_argument("--mergekit", type=Path, required=True, metavar="VENV")
    parser.add_argument("--millions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.mergekit, given.millions * 1_000_000, given.rounds, Path(folder))
    print(f"{given.millions}M float32 numbers, {hardware()}")
    for name, value in found.items():
        print(f"{name:32} {value:10.3f}")
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
