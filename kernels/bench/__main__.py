"""`python -m kernels.bench [--out FOLDER] [--device cpu|cuda]`: one table, bench.json and plots.

On a CPU: float32, one thread, under 5 minutes, and what the Triton kernels compile to for sm_90. On a
CUDA device: bf16, under 8 minutes. Rows that this machine cannot measure are listed without a value.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from kernels.bench import cpu, gpu, plots, sm90_rows
from kernels.bench.measure import Row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="for bench.json, plots"
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch sees no CUDA device; use --device cpu")
    start = time.perf_counter()
    print(machine(), flush=True)
    rows = []
    for row in _rows(options.device):
        rows.append(row)
        print(line(row), flush=True)
    report(rows, options.out, time.perf_counter() - start)


def report(rows: list[Row], folder: Path, seconds: float) -> None:
    """Writes bench.json and the plots; prints where, and which goals were missed."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": machine(),
        "seconds": round(seconds, 1),
        "rows": [row.record() for row in rows],
    }
    (folder / "bench.json").write_text(json.dumps(record, indent=2) + "\n")
    written = ["bench.json", *(path.name for path in plots.draw(rows, folder))]
    missed = [f"{row.name} ({row.shape})" for row in rows if row.verdict == "MISSED"]
    print(f"\n{seconds:.0f} s; written to {folder}: {', '.join(written)}")
    print(f"goals missed: {'; '.join(missed) or 'none'}")


def _rows(device: str) -> Iterator[Row]:
    if device == "cuda":
        yield from gpu.rows()
    else:
        yield from cpu.rows()
        yield from sm90_rows.rows()
        yield from gpu.unmeasured()


def line(row: Row) -> str:
    """The row as a line of the table."""
    value = "-" if row.value is None else f"{row.value:.3g}{row.unit}"
    goal = "" if row.goal is None else f"{'<=' if row.at_most else '>='} {row.goal:.3g}{row.unit}"
    against = "" if row.baseline == "-" else f"of {row.baseline}"
    return (
        f"{row.device:6} {row.name:43.43} {row.shape:49.49} {value:>9} {goal:>11}  "
        f"{row.verdict:13} {against}"
    ).rstrip()


def machine() -> str:
    """Hardware and versions that the rows were measured with."""
    parts = [_processor(), f"{platform.system()}, Python {platform.python_version()}"]
    parts.append(f"torch {torch.__version__}")
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}")
    try:
        import triton

        parts.append(f"Triton {triton.__version__}")
    except ImportError:
        pass
    return "; ".join(parts)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
