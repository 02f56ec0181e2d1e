"""The backward of blockwise attention in one kernel and 5 matmuls (triton_backward.py says why)."""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.masks import Mask
from kernels.attention.tiles import (
    LOG2E,
    Tiles,
    alike,
    base_two,
    dense,
    per_query_head,
    shape_of,
    shared,
    tiles,
)
from kernels.attention.triton_steps import WIDE, key_step


@triton.jit
def add_rows(base, x, first, stride, end, done, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr):
    """base += x' on N float32 rows from `first`, short of `end`, x being (BD, N); base = x' where
    `done`, the keys gone through before, is 0."""
    n = tl.arange(0, N)
    d = tl.arange(0, BD)
    place = base + tl.cast(first, tl.int64) * stride + ((n * stride)[None, :] + d[:, None])
    keep = (first + n < end)[None, :] & (d < D)[:, None]
    old = tl.load(place, mask=keep & (n * 0 + done > 0)[None, :], other=0.0)
    tl.store(place, old + x, mask=keep)


@triton.jit
def block_kernel(
    q_ptr, previous_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, dq_ptr,
    dk_ptr, dv_ptr, slopes_ptr, stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_ks,
    stride_vb, stride_vh, stride_vs, stride_gb, stride_gh, stride_gt, stride_db, stride_dh,
    stride_ds, T, S, H, ratio, room, delta_gap, previous_gap, block, scale, unit, D: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, SLOPES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients that a block of keys gives rise to; grid (blocks of keys, B * H).

    dq: float32 (2, B, T, H, D), what rows hear from their own block, then from the previous one.
    Tiles of keys go in order, and a row's first tile is its block's first: it writes, later ones add.
    """
    begin = tl.program_id(0) * block
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = h // ratio
    head = tl.program_id(1).to(tl.int64)
    shift = S - T
    end = tl.minimum(begin + block, S)
    own_end = end - shift  # rows of this block end here, and those of the next there
    next_end = tl.minimum(begin + 2 * block, S) - shift
    k_head = k_ptr + b * stride_kb + g * stride_kh
    v_head = v_ptr + b * stride_vb + g * stride_vh
    d = tl.arange(0, BD)
    for start in range(begin, end, BN):
        s = start + tl.arange(0, BN)
        # Addresses made of `start` row by row: were they not, the compiler would keep one register
        # for each through the whole loop inside.
        keep = (s < end)[:, None] & (d < D)[None, :]
        row = s[:, None].to(tl.int64)
        k = tl.load(k_head + row * stride_ks + d[None, :], mask=keep, other=0.0)
        v = tl.load(v_head + row * stride_vs + d[None, :], mask=keep, other=0.0)
        dk = tl.zeros([BN, BD], tl.float32)
        dv = tl.zeros([BN, BD], tl.float32)
        own_begin = tl.maximum(start - shift, 0)
        next_begin = tl.maximum(end - shift, 0)
        own_tiles = tl.cdiv(tl.maximum(own_end - own_begin, 0), BM)
        next_tiles = tl.cdiv(tl.maximum(next_end - next_begin, 0), BM)
        query = b * stride_qb + h * stride_qh
        grad_head = grad_ptr + b * stride_gb + h * stride_gh
        slope = 0.0
        if SLOPES:
            slope = tl.load(slopes_ptr + h)
        for tile in tl.range(0, own_tiles + next_tiles):
            own = tile < own_tiles
            begin_rows = tl.where(own, own_begin, next_begin)
            end_rows = tl.where(own, own_end, next_end)
            first = begin_rows + (tile - tl.where(own, 0, own_tiles)) * BM
            q_head = tl.where(own, q_ptr, previous_ptr) + query
            dq_head = dq_ptr + (b * T * H + h) * D + tl.where(own, 0, previous_gap)
            dk, dv, ds = key_step(
                dk, dv, k, v, s, q_head, grad_head, lse_ptr + head * room,
                lse_ptr + delta_gap + head * room, q_ptr, q_ptr, stride_qt, stride_gt, first, end_rows, T, S, block, block, slope, scale,
                True, True, True, False, False, False, SLOPES, D, BD, BM, PRECISION,
            )  # fmt: skip
            dq = tl.dot(tl.trans(k), ds, input_precision=PRECISION) * unit  # transposed
            add_rows(dq_head, dq, first, H * D, end_rows, start - begin, D, BD, BM)
        tl.debug_barrier()
        place = b * stride_db + h * stride_dh + row * stride_ds + d[None, :]
        tl.store(dv_ptr + place, dv.to(dv_ptr.dtype.element_ty), mask=keep)
        tl.store(dk_ptr + place, (dk * unit).to(dk_ptr.dtype.element_ty), mask=keep)


BLOCKS = {
    16: Tiles(32, 128, 8, 2),
    32: Tiles(32, 128, 8, 2),
    64: Tiles(32, 128, 8, 2),
    128: Tiles(32, 64, 8, 2),
    256: Tiles(32, 64, 8, 1),
}


def by_blocks(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    mask: Mask,
    scale: float,
    slopes: Tensor | None,
    q_previous: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Every gradient under a blockwise mask, each block of keys by one program."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    k, v, grad_out = dense(k, v, grad_out)
    q, previous = alike(q, q if q_previous is None else q_previous)
    dk, dv = per_query_head(k, H), per_query_head(v, H)
    dq, dprevious = rows.new_empty(2, B, T, H, D).transpose(2, 3)
    block = mask.block or S
    dprevious[:, :, : max(0, block - (S - T))] = 0.0  # the first block has none before it
    tile = tiles(BLOCKS, WIDE, D, q.dtype)
    block_kernel[(triton.cdiv(S, block), B * H)](
        q, previous, k, v, grad_out, rows, dq, dk, dv,
        base_two(slopes, scale, q), *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *grad_out.stride()[:3], *dk.stride()[:3], T, S, H, H // G, rows.shape[-1],
        rows.stride(0), dq.numel(), block, scale * LOG2E, scale, SLOPES=slopes is not None, **shape_of(tile, D, q.dtype),
    )  # fmt: skip
    dk, dv = shared(dk, G, k.dtype), shared(dv, G, v.dtype)
    if q_previous is None:
        return dq.add_(dprevious).to(q.dtype), dk, dv, None
    return dq.to(q.dtype), dk, dv, dprevious.to(q.dtype, copy=True)
