"""What the Triton kernels compile to for sm_90, on any machine with Triton: no GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from kernels.bench.measure import Row

SHARED_LIMIT = 232_448  # bytes of shared memory that a block may opt in to: 227 KB
DEVICE = "sm_90"


def rows() -> Iterator[Row]:
    """A row a kernel with its registers, then what must hold for all of them together."""
    if importlib.util.find_spec("triton") is None:
        yield from summary(None)
        return
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kernels.bench.sm90_cases"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"compiling for sm_90 failed: {done.stderr.strip()[-500:]}")
    kernels = json.loads(done.stdout)
    for code in kernels:
        name = f"{code['case']}: {code['name'].removesuffix('_kernel')}"
        shape = (
            f"D {code['D']}, bf16; {code['warps']} warps, {code['shared'] / 1024:.0f} KB shared, "
            f"{code['wgmma']} wgmma"
        )
        yield Row(DEVICE, name, shape, "-", code["registers"], None, unit=" regs")
    yield from summary(kernels)


def summary(kernels: list[dict] | None) -> Iterator[Row]:
    """The goals; without values where nothing could be compiled."""
    spills = shared = without = None
    if kernels is not None:
        spills = max(code["stack"] + code["local"] for code in kernels)
        shared = max(code["shared"] for code in kernels) / 1024
        without = sum(code["old_mma"] > 0 or code["dots"] > code["wgmma"] for code in kernels)
    shape = "the most of all, D 64 and 128, bf16"
    goals = (
        ("stack bytes and spill instructions", spills, 0, ""),
        ("shared memory of a block", shared, SHARED_LIMIT / 1024, " KB"),
        ("kernels whose dots are not wgmma", without, 0, ""),
    )
    for name, value, goal, unit in goals:
        yield Row(DEVICE, name, shape, "-", value, goal, unit=unit)
