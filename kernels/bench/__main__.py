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
    print(_machine(), flush=True)
    rows = []
    for row in _rows(options.device):
        rows.append(row)
        print(line(row), flush=True)
    seconds = time.perf_counter() - start
    options.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": _machine(),
        "seconds": round(seconds, 1),
        "rows": [row.record() for row in rows],
    }
    (options.out / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    plots.draw(rows, options.out)
    missed = [row.name for row in rows if row.verdict == "MISSED"]
    print(f"\n{seconds:.0f} s; written to {options.out}/bench.json and plots")
    print(f"goals missed: {', '.join(missed) or 'none'}")


def _rows(device: str) -> Iterator[Row]:
    if device == "cuda":
        yield from gpu.rows()
    else:
        yield from cpu.rows()
        yield from sm90_rows.rows()
        yield from gpu.unmeasured()


def line(row: Row) -> str:
    value = "-" if row.value is None else f"{row.value:.3g}{row.unit}"
    goal = "" if row.goal is None else f"{'<=' if row.at_most else '>='} {row.goal:.3g}{row.unit}"
    return (
        f"{row.device:6} {row.name:40.40} {row.shape:48.48} {value:>9} {goal:>10}  "
        f"{row.verdict:13} of {row.baseline}"
    )


def _machine() -> str:
    parts = [platform.machine(), f"{platform.system()}, Python {platform.python_version()}"]
    parts.append(f"torch {torch.__version__}")
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}")
    try:
        import triton

        parts.append(f"Triton {triton.__version__}")
    except ImportError:
        pass
    return "; ".join(parts)


if __name__ == "__main__":
    main()
