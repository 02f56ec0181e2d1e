"""The backward of triton.py: deterministic, no atomics. With ' for transposed tiles,

    p = 2^(e - lse log2(e))    dv = p' dO    ds = p (dO v' - delta)    dk = scale ds' q    dq = scale ds k

delta_t = dO_t . o_t - dlse_t. Two ways to own the sums:

- any mask: one kernel owns keys (dk, dv) and one owns queries (dq); S and dO v' are computed twice,
  7 matmuls a tile pair;
- blockwise: one program owns a whole block of keys and walks its tiles in order. A query hears from
  just two such programs, its own block's and the previous one's, so each adds into its own float32
  copy of dq, tile after tile, and the two copies are added at the end: 5 matmuls. With `q_previous`
  the second copy is that tensor's gradient itself.

`q_previous` under more limits than the blockwise one takes the first way twice, once for the keys of
each block.
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
    base_two,
    by_heads,
    dense,
    key_ranges,
    limits,
    load_rows,
    padded,
    per_query_head,
    row_bounds,
    shape_of,
    shared,
    store_rows,
    tiles,
)
from kernels.attention.triton_blocks import by_blocks
from kernels.attention.triton_steps import WIDE, key_step, query_step


@triton.jit
def delta_kernel(
    out_ptr, grad_ptr, grad_lse_ptr, lse_ptr, rows_ptr, stride_ob, stride_oh, stride_ot,
    stride_gb, stride_gh, stride_gt, T, H, room, D: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """lse log2(e) and delta, (2, B, H, room), 0 past T; grid (room in tiles of rows, B * H)."""
    first = tl.program_id(0) * BM
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    rows = first + tl.arange(0, BM)
    out = load_rows(out_ptr + b * stride_ob + h * stride_oh, first, stride_ot, T, D, BD, BM, True)
    grad = load_rows(grad_ptr + b * stride_gb + h * stride_gh, first, stride_gt, T, D, BD, BM, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    place = tl.program_id(1).to(tl.int64) * T + rows
    lse = tl.load(lse_ptr + place, mask=rows < T, other=0.0)
    if LSE:
        delta -= tl.load(grad_lse_ptr + place, mask=rows < T, other=0.0)
    head = tl.program_id(1).to(tl.int64) * room
    tl.store(rows_ptr + head + rows, lse * 1.4426950408889634)
    tl.store(rows_ptr + tl.num_programs(1).to(tl.int64) * room + head + rows, delta)


@triton.jit
def key_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, slopes_ptr, lo_ptr, hi_ptr,
    first_row_ptr, end_row_ptr, stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_ks,
    stride_vb, stride_vh, stride_vs, stride_gb, stride_gh, stride_gt, stride_db, stride_dh,
    stride_ds, table_stride, key_table_stride, T, S, H, ratio, room, window, block, scale, unit,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK: tl.constexpr, TABLE: tl.constexpr, SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of a tile of keys from one query head: (B, H, S, D); grid (key tiles, B * H)."""
    start = tl.program_id(0) * BN
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = h // ratio
    lo_ptr += b * table_stride
    hi_ptr += b * table_stride
    s = start + tl.arange(0, BN)
    final = tl.minimum(start + BN, S) - 1
    # Rows that see the first key, and rows that see the last: [first, end) for each.
    if TABLE:
        first_row_ptr += b * key_table_stride
        end_row_ptr += b * key_table_stride
        first_a = tl.load(first_row_ptr + start)
        end_a = tl.load(end_row_ptr + start)
        first_z = tl.load(first_row_ptr + final)
        end_z = tl.load(end_row_ptr + final)
    else:
        shift = S - T
        first_a = 0
        first_z = 0
        end_a = T
        end_z = T
        if CAUSAL:
            first_a = tl.maximum(start - shift, 0)
            first_z = tl.maximum(final - shift, 0)
        if WINDOW:
            end_a = tl.minimum(end_a, start + window - shift)
            end_z = tl.minimum(end_z, final + window - shift)
        if BLOCK:
            end_a = tl.minimum(end_a, (start // block + 2) * block - shift)
            end_z = tl.minimum(end_z, (final // block + 2) * block - shift)
    k = load_rows(k_ptr + b * stride_kb + g * stride_kh, start, stride_ks, S, D, BD, BN, True)
    v = load_rows(v_ptr + b * stride_vb + g * stride_vh, start, stride_vs, S, D, BD, BN, True)
    dk = tl.zeros([BN, BD], tl.float32)
    dv = tl.zeros([BN, BD], tl.float32)
    # Tiles of rows from first_a: masked up to first_z, whole up to end_a, masked up to end_z.
    above = tl.cdiv(tl.maximum(first_z - first_a, 0), BM)
    above = tl.minimum(above, tl.cdiv(tl.maximum(end_z - first_a, 0), BM))
    rising = first_a + above * BM
    steady = rising + tl.maximum(tl.minimum(end_a, T) - rising, 0) // BM * BM
    below = tl.cdiv(tl.maximum(end_z - steady, 0), BM)
    q_head = q_ptr + b * stride_qb + h * stride_qh
    grad_head = grad_ptr + b * stride_gb + h * stride_gh
    lse_head = lse_ptr + tl.program_id(1).to(tl.int64) * room
    delta_head = delta_ptr + tl.program_id(1).to(tl.int64) * room
    slope = 0.0
    if SLOPES:
        slope = tl.load(slopes_ptr + h)
    for first in tl.range(rising, steady, BM):
        dk, dv, _ = key_step(
            dk, dv, k, v, s, q_head, grad_head, lse_head, delta_head, lo_ptr, hi_ptr,
            stride_qt, stride_gt, first, T, T, S, window, block, slope, scale, False, False,
            CAUSAL, WINDOW, BLOCK, TABLE, SLOPES, D, BD, BM, PRECISION,
        )  # fmt: skip
    for n in tl.range(0, above + below):
        first = tl.where(n < above, first_a, steady - above * BM) + n * BM
        dk, dv, _ = key_step(
            dk, dv, k, v, s, q_head, grad_head, lse_head, delta_head, lo_ptr, hi_ptr,
            stride_qt, stride_gt, first, T, T, S, window, block, slope, scale, True, True,
            CAUSAL, WINDOW, BLOCK, TABLE, SLOPES, D, BD, BM, PRECISION,
        )  # fmt: skip
    store_rows(dk_ptr + b * stride_db + h * stride_dh, dk * unit, start, stride_ds, S, D, BD, BN)
    store_rows(dv_ptr + b * stride_db + h * stride_dh, dv, start, stride_ds, S, D, BD, BN)


@triton.jit
def query_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, slopes_ptr, lo_ptr, hi_ptr,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_ks, stride_vb, stride_vh,
    stride_vs, stride_gb, stride_gh, stride_gt, stride_db, stride_dh, stride_dt, table_stride, T,
    S, H, ratio, room, window, block, scale, unit, D: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK: tl.constexpr, TABLE: tl.constexpr, SLOPES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a tile of queries; grid (query tiles, B * H), the longest first."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = h // ratio
    k_ptr += b * stride_kb + g * stride_kh
    v_ptr += b * stride_vb + g * stride_vh
    lo_ptr += b * table_stride
    hi_ptr += b * table_stride
    rows = first + tl.arange(0, BM)
    t = rows + (S - T)
    last = tl.minimum(first + BM, T) - 1
    lo, hi = row_bounds(rows, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    begin, hi_a = row_bounds(
        first, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE
    )
    lo_z, hi_z = row_bounds(last, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    q = load_rows(q_ptr + b * stride_qb + h * stride_qh, first, stride_qt, T, D, BD, BM, True)
    grad = load_rows(grad_ptr + b * stride_gb + h * stride_gh, first, stride_gt, T, D, BD, BM, True)
    head = tl.program_id(1).to(tl.int64) * room
    lse = tl.load(lse_ptr + head + rows)
    delta = tl.load(delta_ptr + head + rows)
    slope = 0.0
    if SLOPES:
        slope = tl.load(slopes_ptr + h)
    dq = tl.zeros([BM, BD], tl.float32)
    after, middle = key_ranges(begin, lo_z, hi_a, hi_z, 0, BN, WINDOW or BLOCK or TABLE)
    if WINDOW or BLOCK or TABLE:
        dq = query_step(
            dq, q, grad, lse, delta, k_ptr, v_ptr, stride_ks, stride_vs, begin, after, t, lo, hi,
            slope, scale, S, True, False, SLOPES, D, BD, BN, PRECISION,
        )  # fmt: skip
    dq = query_step(
        dq, q, grad, lse, delta, k_ptr, v_ptr, stride_ks, stride_vs, after, middle, t, lo, hi,
        slope, scale, S, False, False, SLOPES, D, BD, BN, PRECISION,
    )  # fmt: skip
    dq = query_step(
        dq, q, grad, lse, delta, k_ptr, v_ptr, stride_ks, stride_vs, middle, hi_z, t, lo, hi,
        slope, scale, S, True, False, SLOPES, D, BD, BN, PRECISION,
    )  # fmt: skip
    store_rows(dq_ptr + b * stride_db + h * stride_dh, dq * unit, first, stride_dt, T, D, BD, BM)


KEYS = {
    16: Tiles(64, 128, 8, 2),
    32: Tiles(64, 128, 8, 2),
    64: Tiles(64, 128, 8, 2),
    128: Tiles(32, 128, 8, 2),
    256: Tiles(32, 64, 8, 1),
}
KEYS_SLOPED = KEYS | {128: Tiles(32, 64, 4, 2)}  # ALiBi's distances take registers
QUERIES = {
    16: Tiles(128, 64, 8, 3),
    32: Tiles(128, 64, 8, 3),
    64: Tiles(128, 64, 8, 3),
    128: Tiles(128, 64, 8, 2),
    256: Tiles(64, 32, 8, 2),
}
ENOUGH = 256  # programs that keep a GPU busy; with fewer blocks of keys, own the keys by tiles


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: Mask,
    scale: float,
    slopes: Tensor | None = None,
    q_previous: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and q_previous."""
    (B, H), S = q.shape[:2], k.shape[2]
    rows = row_sums(out, lse, grad_out, grad_lse)
    saved = (grad_out, q, k, v, rows, mask, scale, slopes)
    blocks = B * H * -(-S // mask.block) if mask.is_plain_blockwise and mask.block else 0
    if q_previous is not None and not mask.is_plain_blockwise:
        own, before = mask.by_block(S)
        dk, dv = by_keys(grad_out, q, k, v, rows, own, scale, slopes)
        dq = by_queries(grad_out, q, k, v, rows, own, scale, slopes)
        more_dk, more_dv = by_keys(grad_out, q_previous, k, v, rows, before, scale, slopes)
        dprevious = by_queries(grad_out, q_previous, k, v, rows, before, scale, slopes)
        return dq, dk + more_dk, dv + more_dv, dprevious
    if q_previous is not None or blocks >= ENOUGH:
        return by_blocks(*saved, q_previous)
    dk, dv = by_keys(*saved)
    return by_queries(*saved), dk, dv, None


def row_sums(out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None) -> Tensor:
    """lse in base 2 and delta, (2, B, H, T and room for a tile past the end), float32."""
    B, H, T, D = out.shape
    BM = 64
    room = (triton.cdiv(T, BM) + 2) * BM
    rows = out.new_empty(2, B, H, room, dtype=torch.float32)
    (grad_out,) = dense(grad_out)
    delta_kernel[(room // BM, B * H)](
        out, grad_out, lse if grad_lse is None else grad_lse.contiguous(), lse, rows,
        *out.stride()[:3], *grad_out.stride()[:3], T, H, room, D=D, BD=padded(D), BM=BM,
        LSE=grad_lse is not None, enable_fp_fusion=True,
    )  # fmt: skip
    return rows


def by_keys(grad_out, q, k, v, rows, mask, scale, slopes) -> tuple[Tensor, Tensor]:
    """dk and dv, each tile of keys by one program."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    q, k, v, grad_out = dense(q, k, v, grad_out)
    dk, dv = per_query_head(k, H), per_query_head(v, H)
    limit = limits(mask, T, S, q)
    first_row = end_row = limit.lo
    if limit.flags["TABLE"]:
        keys = torch.arange(S, device=q.device, dtype=torch.int32).repeat(len(limit.lo), 1)
        # Rows whose hi is at most s come before the first that sees s; lo likewise ends them.
        first_row = torch.searchsorted(limit.hi, keys, right=True, out_int32=True)
        end_row = torch.searchsorted(limit.lo, keys, right=True, out_int32=True)
    tile = tiles(KEYS if slopes is None else KEYS_SLOPED, WIDE, D, q.dtype)
    key_kernel[(triton.cdiv(S, tile.BN), B * H)](
        q, k, v, grad_out, rows[0], rows[1], dk, dv, base_two(slopes, scale, q), limit.lo,
        limit.hi, first_row, end_row, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *grad_out.stride()[:3], *dk.stride()[:3], limit.table_stride,
        S if limit.table_stride else 0, T, S, H, H // G, rows.shape[-1], limit.window,
        limit.block, scale * LOG2E, scale, SLOPES=slopes is not None,
        **shape_of(tile, D, q.dtype), **limit.flags,
    )  # fmt: skip
    return shared(dk, G, k.dtype), shared(dv, G, v.dtype)


def by_queries(grad_out, q, k, v, rows, mask, scale, slopes) -> Tensor:
    """dq, each tile of queries by one program."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    q, k, v, grad_out = dense(q, k, v, grad_out)
    dq = by_heads(B, H, T, D, q)
    limit = limits(mask, T, S, q)
    tile = tiles(QUERIES, WIDE, D, q.dtype)
    query_kernel[(triton.cdiv(T, tile.BM), B * H)](
        q, k, v, grad_out, rows[0], rows[1], dq, base_two(slopes, scale, q), limit.lo, limit.hi,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *grad_out.stride()[:3],
        *dq.stride()[:3], limit.table_stride, T, S, H, H // G, rows.shape[-1], limit.window,
        limit.block, scale * LOG2E, scale, SLOPES=slopes is not None,
        **shape_of(tile, D, q.dtype), **limit.flags,
    )  # fmt: skip
    return dq
