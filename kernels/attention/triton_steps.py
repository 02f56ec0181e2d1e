"""One step of a backward: a tile of queries against a tile of keys, from either side."""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from kernels.attention.tiles import Tiles, biased, load_rows, row_bounds


@triton.jit
def key_step(
    dk, dv, k, v, s, q_ptr, grad_ptr, lse_ptr, delta_ptr, lo_ptr, hi_ptr, stride_qt, stride_gt,
    first, end, T, S, window, block, slope, scale, MASKED: tl.constexpr, INTERVAL: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, TABLE: tl.constexpr,
    SLOPES: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Query rows first .. first + BM - 1 (short of `end`) for one tile of keys: dk, dv and ds (keys,
    queries). MASKED: rows may end inside the tile. INTERVAL: the mask must be consulted."""
    rows = first + tl.arange(0, BM)
    q = load_rows(q_ptr, first, stride_qt, end, D, BD, BM, MASKED)
    grad = load_rows(grad_ptr, first, stride_gt, end, D, BD, BM, MASKED)
    lse = tl.load(lse_ptr + rows)
    delta = tl.load(delta_ptr + rows)
    t = rows + (S - T)
    e = tl.dot(k, tl.trans(q), input_precision=PRECISION)
    if SLOPES:
        e -= slope * tl.abs(t[None, :] - s[:, None]).to(tl.float32)
    p = tl.math.exp2(e * scale - lse[None, :])
    if INTERVAL:
        lo, hi = row_bounds(rows, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
        hi = tl.where(rows < end, hi, 0)
        p = tl.where((s[:, None] >= lo[None, :]) & (s[:, None] < hi[None, :]), p, 0.0)
    dv = tl.dot(p.to(grad.dtype), grad, dv, input_precision=PRECISION)
    dp = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
    ds = (p * (dp - delta[None, :])).to(q.dtype)
    dk = tl.dot(ds, q, dk, input_precision=PRECISION)
    return dk, dv, ds


@triton.jit
def query_step(
    dq, q, grad, lse, delta, k_ptr, v_ptr, stride_k, stride_v, begin, end, t, lo, hi, slope,
    scale, S, MASKED: tl.constexpr, SELF: tl.constexpr, SLOPES: tl.constexpr, D: tl.constexpr,
    BD: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a tile of queries over keys begin .. end - 1: three matmuls a tile. SELF: a row's own key
    is hidden."""
    for start in tl.range(begin, end, BN):
        k = load_rows(k_ptr, start, stride_k, S, D, BD, BN, MASKED)
        v = load_rows(v_ptr, start, stride_v, S, D, BD, BN, MASKED)
        s = start + tl.arange(0, BN)
        e = biased(tl.dot(q, tl.trans(k), input_precision=PRECISION), t, s, slope, SLOPES)
        p = tl.math.exp2(e * scale - lse[:, None])
        if MASKED:
            seen = (s[None, :] >= lo[:, None]) & (s[None, :] < hi[:, None])
            if SELF:
                seen = seen & (s[None, :] != t[:, None])
            p = tl.where(seen, p, 0.0)
        dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        ds = (p * (dp - delta[:, None])).to(k.dtype)
        dq = tl.dot(ds, k, dq, input_precision=PRECISION)
    return dq


# Tiles for float32, whichever the kernel.
WIDE = {
    16: Tiles(32, 32, 4, 1),
    32: Tiles(32, 32, 4, 1),
    64: Tiles(32, 32, 4, 1),
    128: Tiles(32, 32, 4, 1),
    256: Tiles(16, 16, 4, 1),
}
