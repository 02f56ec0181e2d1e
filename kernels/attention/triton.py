"""Attention under any interval mask on a GPU: one forward, and a backward without atomics.

A program owns a tile of queries and walks the keys between the first row's lo and the last row's hi:
tiles outside are never loaded, tiles that every row sees whole carry no mask. Bounds are arithmetic
for causal, window and blockwise limits and read from a table for the rest (prefixes, documents).

    scores in base 2:  e = (q . k) scale log2(e) - slope log2(e) |t - s|,  p = 2^(e - m)

Blockwise masks with `q_previous` (window-local rotary queries) hold two query tiles: one for the
previous block's keys, one for the own block's.

The backward is in triton_backward.py. Shapes: q (B, H, T, D), k, v (B, G, S, D), lse (B, H, T).
"""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.masks import Mask
from kernels.attention.tiles import (
    LOG2E,
    Tiles,
    alike,
    base_two,
    biased,
    by_heads,
    key_ranges,
    limits,
    load_rows,
    row_bounds,
    shape_of,
    store_rows,
    tiles,
)


@triton.jit
def load_rotated(
    base, factors_ptr, start, stride, limit, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr,
    ROTARY: tl.constexpr,
):  # fmt: skip
    """load_rows, each pair turned by its row of factors (rows, D / 2, 2), float32, and left as
    neighbours. ROTARY: in memory pairs are 1, neighbours; 2, D / 2 apart (keys must then have been
    stored as neighbours too: a score does not depend on the order of a head's columns)."""
    n = tl.arange(0, N)
    d = tl.arange(0, BD)
    pair = tl.arange(0, BD // 2)
    inside = (start + n < limit)[:, None]
    row = tl.cast(start, tl.int64) + n[:, None]
    table = tl.load(factors_ptr + row * D + d[None, :], mask=inside & (d < D)[None, :], other=0.0)
    real, imaginary = tl.split(tl.reshape(table, (N, BD // 2, 2)))
    if ROTARY == 1:
        x = load_rows(base, start, stride, limit, D, BD, N, True).to(tl.float32)
        one, two = tl.split(tl.reshape(x, (N, BD // 2, 2)))
    else:
        keep = inside & (pair < D // 2)[None, :]
        one = tl.load(base + row * stride + pair[None, :], mask=keep, other=0.0).to(tl.float32)
        two = tl.load(base + row * stride + D // 2 + pair[None, :], mask=keep, other=0.0)
        two = two.to(tl.float32)
    turned = tl.join(one * real - two * imaginary, two * real + one * imaginary)
    return tl.reshape(turned, (N, BD)).to(base.dtype.element_ty)


@triton.jit
def attend(
    acc, m, l, q, k_ptr, v_ptr, stride_k, stride_v, begin, end, t, lo, hi, slope,
    scale, S, MASKED: tl.constexpr, SELF: tl.constexpr, SLOPES: tl.constexpr, D: tl.constexpr,
    BD: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The online softmax over keys begin .. end - 1. SELF: a row's own key is hidden."""
    for start in tl.range(begin, end, BN):
        k = load_rows(k_ptr, start, stride_k, S, D, BD, BN, MASKED)
        s = start + tl.arange(0, BN)
        qk = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        qk = biased(qk, t, s, slope, SLOPES)
        if MASKED:
            seen = (s[None, :] >= lo[:, None]) & (s[None, :] < hi[:, None])
            if SELF:
                seen = seen & (s[None, :] != t[:, None])
            qk = tl.where(seen, qk, -float("inf"))
        new = tl.maximum(m, tl.max(qk, 1) * scale)
        base = new
        if MASKED:  # a row that has seen nothing yet
            base = tl.where(new == -float("inf"), 0.0, new)
        p = tl.math.exp2(qk * scale - base[:, None])
        shrink = tl.math.exp2(m - base)
        l = l * shrink + tl.sum(p, 1)
        v = load_rows(v_ptr, start, stride_v, S, D, BD, BN, MASKED)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        m = new
    return acc, m, l


@triton.jit
def attend_mixed(
    acc, m, l, q, q_previous, k_ptr, v_ptr, stride_k, stride_v, begin, end, t, lo, hi, slope,
    scale, S, block, SLOPES: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """As attend, where a tile may hold rows of two blocks: each pair takes the query it needs."""
    for start in tl.range(begin, end, BN):
        k = load_rows(k_ptr, start, stride_k, S, D, BD, BN, True)
        s = start + tl.arange(0, BN)
        own = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        previous = tl.dot(q_previous, tl.trans(k), input_precision=PRECISION)
        qk = tl.where((t // block)[:, None] == (s // block)[None, :], own, previous)
        qk = biased(qk, t, s, slope, SLOPES)
        seen = (s[None, :] >= lo[:, None]) & (s[None, :] < hi[:, None])
        qk = tl.where(seen, qk, -float("inf"))
        new = tl.maximum(m, tl.max(qk, 1) * scale)
        base = tl.where(new == -float("inf"), 0.0, new)
        p = tl.math.exp2(qk * scale - base[:, None])
        shrink = tl.math.exp2(m - base)
        l = l * shrink + tl.sum(p, 1)
        v = load_rows(v_ptr, start, stride_v, S, D, BD, BN, True)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        m = new
    return acc, m, l


@triton.jit
def forward_kernel(
    q_ptr, previous_ptr, k_ptr, v_ptr, own_k_ptr, own_v_ptr, out_ptr, lse_ptr, slopes_ptr, lo_ptr,
    hi_ptr, factors_ptr, previous_factors_ptr, stride_qb, stride_qh, stride_qt, stride_kb,
    stride_kh, stride_ks, stride_vb, stride_vh, stride_vs, stride_ob, stride_oh, stride_ot,
    table_stride, T, S, H, ratio, window, block, scale, D: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK: tl.constexpr, TABLE: tl.constexpr, SLOPES: tl.constexpr,
    PREVIOUS: tl.constexpr,  # 0 none; 1 tiles lie in blocks, no other limit; 2 any mask
    OWN: tl.constexpr,  # a row's own key and value come from own_k, own_v (S, like k)
    ROTARY: tl.constexpr,  # queries are turned here: 0 no, 1 neighbours, 2 halves
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of queries, B * H); the last tiles first, for they have the most keys."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = h // ratio
    q_ptr += b * stride_qb + h * stride_qh
    k_ptr += b * stride_kb + g * stride_kh
    v_ptr += b * stride_vb + g * stride_vh
    lo_ptr += b * table_stride
    hi_ptr += b * table_stride
    rows = first + tl.arange(0, BM)
    t = rows + (S - T)
    last = tl.minimum(first + BM, T) - 1
    lo, hi = row_bounds(rows, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    lo_a, hi_a = row_bounds(
        first, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE
    )
    lo_z, hi_z = row_bounds(last, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    if ROTARY:
        q = load_rotated(q_ptr, factors_ptr, first, stride_qt, T, D, BD, BM, ROTARY)
    else:
        q = load_rows(q_ptr, first, stride_qt, T, D, BD, BM, True)
    if PREVIOUS:
        previous_ptr += b * stride_qb + h * stride_qh
        if ROTARY:
            tl.debug_barrier()  # one rotation after the other: together they overflow the registers
            q_previous = load_rotated(
                previous_ptr, previous_factors_ptr, first, stride_qt, T, D, BD, BM, ROTARY
            )
        else:
            q_previous = load_rows(previous_ptr, first, stride_qt, T, D, BD, BM, True)
    slope = 0.0
    if SLOPES:
        slope = tl.load(slopes_ptr + h)
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BD], tl.float32)
    if OWN:
        own_k_ptr += b * stride_kb + g * stride_kh
        own_v_ptr += b * stride_vb + g * stride_vh
        own_k = load_rows(own_k_ptr, first + S - T, stride_ks, S, D, BD, BM, True)
        own_v = load_rows(own_v_ptr, first + S - T, stride_vs, S, D, BD, BM, True)
        m = tl.sum(q.to(tl.float32) * own_k.to(tl.float32), 1) * scale
        l += 1.0
        acc += own_v.to(tl.float32)
    if PREVIOUS == 2:
        acc, m, l = attend_mixed(
            acc, m, l, q, q_previous, k_ptr, v_ptr, stride_ks, stride_vs, lo_a, hi_z, t, lo, hi,
            slope, scale, S, block, SLOPES, D, BD, BN, PRECISION,
        )  # fmt: skip
    else:
        begin = lo_a
        if PREVIOUS == 1:
            begin = (first + S - T) // block * block
            acc, m, l = attend(
                acc, m, l, q_previous, k_ptr, v_ptr, stride_ks, stride_vs, lo_a, begin, t, lo, hi,
                slope, scale, S, False, False, SLOPES, D, BD, BN, PRECISION,
            )  # fmt: skip
        after, middle = key_ranges(
            begin, lo_z, hi_a, hi_z, OWN, BN, PREVIOUS == 0 and (WINDOW or BLOCK or TABLE)
        )
        if OWN and not CAUSAL:  # no tile is sure to be without a row's own key
            middle = after
        if PREVIOUS == 0 and (WINDOW or BLOCK or TABLE):
            acc, m, l = attend(
                acc, m, l, q, k_ptr, v_ptr, stride_ks, stride_vs, begin, after, t, lo, hi, slope,
                scale, S, True, OWN, SLOPES, D, BD, BN, PRECISION,
            )  # fmt: skip
        if CAUSAL or not OWN:
            acc, m, l = attend(
                acc, m, l, q, k_ptr, v_ptr, stride_ks, stride_vs, after, middle, t, lo, hi, slope,
                scale, S, False, False, SLOPES, D, BD, BN, PRECISION,
            )  # fmt: skip
        acc, m, l = attend(
            acc, m, l, q, k_ptr, v_ptr, stride_ks, stride_vs, middle, hi_z, t, lo, hi, slope,
            scale, S, True, OWN, SLOPES, D, BD, BN, PRECISION,
        )  # fmt: skip
    total = tl.where(l == 0.0, 1.0, l)
    out_ptr += b * stride_ob + h * stride_oh
    store_rows(out_ptr, acc / total[:, None], first, stride_ot, T, D, BD, BM)
    lse = (m + tl.math.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * T + rows, lse, mask=rows < T)


# By padded head size; the second table is for float32, whose tiles take twice the room.
FORWARD = {
    16: Tiles(128, 64, 8, 3),
    32: Tiles(128, 64, 8, 3),
    64: Tiles(128, 64, 8, 3),
    128: Tiles(128, 64, 8, 3),
    256: Tiles(128, 32, 8, 2),
}
FORWARD_WIDE = {
    16: Tiles(64, 64, 4, 2),
    32: Tiles(64, 64, 4, 2),
    64: Tiles(64, 32, 4, 2),
    128: Tiles(64, 32, 4, 2),
    256: Tiles(32, 32, 4, 1),
}


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    scale: float,
    slopes: Tensor | None = None,
    q_previous: Tensor | None = None,
    own: tuple[Tensor, Tensor] | None = None,
    factors: tuple[Tensor, ...] = (),
    layout: str = "interleaved",
) -> tuple[Tensor, Tensor]:
    """(out, lse (B, H, T) float32).

    own: (k, v) that replace k and v at each query's own position. factors: one (T, D / 2, 2) float32
    table that turns the queries inside, or two under a blockwise mask, the second for the previous
    block's keys, of the same q.
    """
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    q, previous = alike(q, q if q_previous is None else q_previous)
    two = q_previous is not None or len(factors) == 2
    turn, turn_previous = (factors[0], factors[-1]) if factors else (q, q)
    k, own_k = alike(k, k if own is None else own[0])
    v, own_v = alike(v, v if own is None else own[1])
    out, lse = by_heads(B, H, T, D, q), q.new_empty(B, H, T, dtype=torch.float32)
    limit = limits(mask, T, S, q)
    tile = tiles(FORWARD, FORWARD_WIDE, D, q.dtype)
    aligned = mask.is_plain_blockwise and limit.block % tile.BM == 0 and (S - T) % tile.BM == 0
    forward_kernel[(triton.cdiv(T, tile.BM), B * H)](
        q, previous, k, v, own_k, own_v, out, lse, base_two(slopes, scale, q), limit.lo, limit.hi,
        turn, turn_previous, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        limit.table_stride, T, S, H, H // G, limit.window, limit.block, scale * LOG2E,
        SLOPES=slopes is not None, PREVIOUS=0 if not two else 1 if aligned else 2,
        OWN=own is not None, ROTARY=0 if not factors else 1 if layout == "interleaved" else 2,
        **shape_of(tile, D, q.dtype), **limit.flags,
    )  # fmt: skip
    return out, lse
