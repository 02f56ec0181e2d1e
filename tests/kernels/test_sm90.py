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

from ahead_of_time import compiled, launches

from kernels.attention import triton as forwards
from kernels.attention import triton_backward, triton_blocks
from kernels.attention.masks import (
    blockwise_causal,
    causal,
    documents,
    prefix,
    sliding_window,
)
from kernels.momentum import triton as momentum
from kernels.myopic import triton as myopic
from kernels.xpos import triton as xpos

B, T, H, G = 2, 1024, 4, 2
SHARED_LIMIT = 232_448  # bytes a block may opt in to
IDS = torch.arange(T).repeat(B, 1) // 300
MASKS = {
    "causal": causal(),
    "window": sliding_window(256),
    "blockwise": blockwise_causal(256),
    "packed": causal() & documents(IDS),
    "prefix": prefix([100, 300]),
}


def heads(n: int, D: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(B, T, n, D, dtype=dtype).transpose(1, 2)


def attention(D, dtype, mask, *, slopes=False, previous=False, rotary=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    steep = torch.empty(H) if slopes else None
    tables = (torch.empty(T, D // 2, 2),) * 2 if rotary else ()
    forwards.forward(
        q, k, v, MASKS[mask], 0.1, steep, q.clone() if previous else None, factors=tables
    )


def backward(D, dtype, mask, *, slopes=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    rows = triton_backward.row_sums(q, torch.empty(B, H, T), q, None)
    saved = (q, q, k, v, rows, MASKS[mask], 0.1, torch.empty(H) if slopes else None)
    if MASKS[mask].is_plain_blockwise:
        triton_blocks.by_blocks(*saved, None)
    triton_backward.by_keys(*saved)
    triton_backward.by_queries(*saved)


def blocks(D, dtype, *, previous=False, slopes=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    rows = torch.empty(2, B, H, T + 128)
    steep = torch.empty(H) if slopes else None
    saved = (q, q, k, v, rows, MASKS["blockwise"], 0.1, steep)
    triton_blocks.by_blocks(*saved, q.clone() if previous else None)


def shortsighted(D, dtype, mask, *, frozen=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    past = (k.clone(), v.clone()) if frozen else None
    lse = torch.empty(B, H, T)
    if frozen:
        forwards.forward(q, k, v, MASKS[mask], 0.1, own=past)
    myopic.backward(q, q, lse, q, k, v, past, MASKS[mask], 0.1, None)


def sums(D, dtype, *, packed=False, reverse=False, halo=None):
    v, eta, state = heads(H, D, dtype), torch.empty(H), torch.empty(B, H, D)
    runs = torch.empty(B, T, dtype=torch.int32) if packed else None
    momentum.scan(v, eta, state, runs, gain=not reverse, reverse=reverse, halo=halo)


def turned(D, dtype, layout):
    table = torch.empty(T, D // 2, 2)
    xpos.rotate(heads(H, D, dtype), heads(G, D, dtype), table, table, layout, False)


CASES = {
    "forward, causal": lambda D, t: attention(D, t, "causal"),
    "forward, packed": lambda D, t: attention(D, t, "packed"),
    "forward, window-local rotary": lambda D, t: attention(D, t, "blockwise", rotary=True),
    "backward, packed": lambda D, t: backward(D, t, "packed"),
    "backward, blocks": lambda D, t: blocks(D, t, previous=True),
    "myopic, causal": lambda D, t: shortsighted(D, t, "causal"),
    "myopic, frozen past": lambda D, t: shortsighted(D, t, "packed", frozen=True),
    "momentum, carried": lambda D, t: sums(D, t, packed=True),
    "momentum, rebuilt": lambda D, t: sums(D, t, halo=256),
    "rotation": lambda D, t: turned(D, t, "interleaved"),
}
MORE = {
    **{f"forward, {m}": lambda D, t, m=m: attention(D, t, m) for m in MASKS},
    **{f"forward, {m}, slopes": lambda D, t, m=m: attention(D, t, m, slopes=True) for m in MASKS},
    **{f"forward, {m}, grouped": lambda D, t, m=m: attention(D, t, m, groups=G) for m in MASKS},
    **{f"backward, {m}": lambda D, t, m=m: backward(D, t, m) for m in MASKS},
    **{f"backward, {m}, slopes": lambda D, t, m=m: backward(D, t, m, slopes=True) for m in MASKS},
    **{f"backward, {m}, grouped": lambda D, t, m=m: backward(D, t, m, groups=G) for m in MASKS},
    **{f"myopic, {m}": lambda D, t, m=m: shortsighted(D, t, m) for m in MASKS},
    **{f"frozen past, {m}": lambda D, t, m=m: shortsighted(D, t, m, frozen=True) for m in MASKS},
    "forward, previous": lambda D, t: attention(D, t, "blockwise", previous=True),
    "blocks, grouped": lambda D, t: blocks(D, t, groups=G),
    "blocks, slopes": lambda D, t: blocks(D, t, slopes=True),
    "momentum, backward": lambda D, t: sums(D, t, reverse=True),
    "momentum, packed backward": lambda D, t: sums(D, t, reverse=True, packed=True),
    "rotation, halves": lambda D, t: turned(D, t, "half"),
}
WITHOUT_DOTS = {"delta_kernel", "ends_kernel", "carry_kernel", "rotate_kernel"}


def check(run, D, dtype=torch.bfloat16):
    found = launches(lambda: run(D, dtype))
    assert found
    for launch in found:
        code = compiled(launch)
        assert code.stack == 0 and code.local == 0, f"{code.name} spills: {code}"
        assert code.old_mma == 0, f"{code.name} uses the old tensor-core path: {code}"
        assert code.wgmma > 0 or code.name in WITHOUT_DOTS, f"{code.name} has no wgmma: {code}"
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
