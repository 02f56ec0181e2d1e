"""Every Triton kernel at its default configuration, compiled for sm_90 without a GPU.

A spill costs more than any tile size gains, and a dot that misses the tensor cores ten times that;
neither shows in a result. Head sizes 64 and 128, bf16. Slow: every variant, and other head sizes.
"""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from kernels.attention import triton as forwards
from kernels.bench.sm90 import compiled, launches
from kernels.bench.sm90_cases import (
    CASES,
    MASKS,
    G,
    attention,
    backward,
    blocks,
    shortsighted,
    sums,
    turned,
)
from kernels.bench.sm90_rows import SHARED_LIMIT

MORE = {
    **{f"forward, {m}": lambda D, t, m=m: attention(D, t, m) for m in MASKS},
    **{f"forward, {m}, slopes": lambda D, t, m=m: attention(D, t, m, slopes=True) for m in MASKS},
    **{f"forward, {m}, grouped": lambda D, t, m=m: attention(D, t, m, groups=G) for m in MASKS},
    **{f"backward, {m}": lambda D, t, m=m: backward(D, t, m) for m in MASKS},
    **{f"backward, {m}, slopes": lambda D, t, m=m: backward(D, t, m, slopes=True) for m in MASKS},
    **{f"backward, {m}, grouped": lambda D, t, m=m: backward(D, t, m, groups=G) for m in MASKS},
    **{f"myopic, {m}": lambda D, t, m=m: shortsighted(D, t, m) for m in MASKS},
    **{f"frozen past, {m}": lambda D, t, m=m: shortsighted(D, t, m, frozen=True) for m in MASKS},
    "forward, previous, packed": lambda D, t: attention(D, t, "packed blocks", previous=True),
    "forward, previous": lambda D, t: attention(D, t, "blockwise", previous=True),
    "blocks, grouped": lambda D, t: blocks(D, t, groups=G),
    "blocks, slopes": lambda D, t: blocks(D, t, slopes=True),
    "momentum, backward": lambda D, t: sums(D, t, reverse=True),
    "momentum, packed backward": lambda D, t: sums(D, t, reverse=True, packed=True),
    "rotation, halves": lambda D, t: turned(D, t, "half"),
}


def check(run, D, dtype=torch.bfloat16):
    found = launches(lambda: run(D, dtype))
    assert found
    for launch in found:
        code = compiled(launch)
        assert code.stack == 0 and code.local == 0, f"{code.name} spills: {code}"
        assert code.old_mma == 0, f"{code.name} uses the old tensor-core path: {code}"
        assert code.wgmma >= code.dots, f"{code.name} has dots without wgmma: {code}"
        assert code.shared <= SHARED_LIMIT, f"{code.name} needs too much shared memory: {code}"


@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("case", CASES)
def test_compiles_clean(case, D):
    check(CASES[case], D)


@pytest.mark.slow
@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("case", MORE)
def test_every_variant_compiles_clean(case, D):
    check(MORE[case], D)


@pytest.mark.slow
@pytest.mark.parametrize("D", [16, 32, 80, 96, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_head_sizes_compile(D, dtype):
    """No promise about spills or tensor cores here, only that they build and fit."""
    for run in CASES.values():
        for launch in launches(lambda run=run: run(D, dtype)):
            assert compiled(launch).shared <= SHARED_LIMIT


def test_the_checks_can_fail():
    """Tiles too large for the registers must be reported, or the tests above say nothing."""
    from kernels.attention.tiles import Tiles

    kept = forwards.FORWARD[128]
    forwards.FORWARD[128] = Tiles(256, 128, 4, 2)
    try:
        with pytest.raises(AssertionError, match="spills"):
            check(CASES["forward, causal"], 128)
    finally:
        forwards.FORWARD[128] = kept
