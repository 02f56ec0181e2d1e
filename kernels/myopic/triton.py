"""Myopic attention on a GPU: the forward of attention, and one backward kernel in the same loop order.

A program owns a tile of queries and the same rows of dk and dv. It takes delta in its prologue,

    delta_i = dO_i . o_i    p_i = 2^(e_ii - lse_i)    ds_i = p_i (dO_i . v_i - delta_i)
    dk_i = scale ds_i q_i   dv_i = p_i dO_i           (of the position's own key and value)

then walks the keys for dq: three matmuls a tile, no atomics, no second pass. Under a frozen past the
tiles hide a row's own key, and the live one joins from the prologue, in the forward and here.

Shapes: q (B, H, T, D), k, v, past (B, G, S, D). Where H > G, dk and dv are written per query head and
summed over the heads that share a key head.
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
    by_heads,
    dense,
    key_ranges,
    limits,
    load_rows,
    per_query_head,
    row_bounds,
    shape_of,
    shared,
    store_rows,
    tiles,
)
from kernels.attention.triton import forward
from kernels.attention.triton_steps import WIDE, query_step


@triton.jit
def myopic_kernel(
    q_ptr, k_ptr, v_ptr, own_k_ptr, own_v_ptr, out_ptr, grad_ptr, lse_ptr, dq_ptr, dk_ptr, dv_ptr,
    slopes_ptr, lo_ptr, hi_ptr, stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_ks,
    stride_vb, stride_vh, stride_vs, stride_gb, stride_gh, stride_gt, stride_ob, stride_oh,
    stride_ot, stride_db, stride_dh, stride_dt, table_stride, T, S, H, ratio, window, block,
    scale, unit, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, TABLE: tl.constexpr,
    SLOPES: tl.constexpr, OWN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (query tiles, B * H), the longest first; dq, dk, dv (B, H, T, D) with one set of strides."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = h // ratio
    key = b * stride_kb + g * stride_kh
    value = b * stride_vb + g * stride_vh
    row = b * stride_db + h * stride_dh
    rows = first + tl.arange(0, BM)
    own_key = first + S - T
    q = load_rows(q_ptr + b * stride_qb + h * stride_qh, first, stride_qt, T, D, BD, BM, True)
    grad = load_rows(grad_ptr + b * stride_gb + h * stride_gh, first, stride_gt, T, D, BD, BM, True)
    out = load_rows(out_ptr + b * stride_ob + h * stride_oh, first, stride_ot, T, D, BD, BM, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    lse = tl.load(lse_ptr + tl.program_id(1).to(tl.int64) * T + rows, mask=rows < T, other=0.0)
    lse = lse * 1.4426950408889634
    own_v = load_rows(own_v_ptr + value, own_key, stride_vs, S, D, BD, BM, True)
    ds = tl.sum(grad.to(tl.float32) * own_v.to(tl.float32), 1) - delta
    own_k = load_rows(own_k_ptr + key, own_key, stride_ks, S, D, BD, BM, True)
    p = tl.math.exp2(tl.sum(q.to(tl.float32) * own_k.to(tl.float32), 1) * scale - lse)
    ds = ds * p
    store_rows(dv_ptr + row, p[:, None] * grad.to(tl.float32), first, stride_dt, T, D, BD, BM)
    store_rows(
        dk_ptr + row, (ds * unit)[:, None] * q.to(tl.float32), first, stride_dt, T, D, BD, BM
    )
    dq = tl.zeros([BM, BD], tl.float32)
    if OWN:
        dq += ds[:, None] * own_k.to(tl.float32)
    lo_ptr += b * table_stride
    hi_ptr += b * table_stride
    t = rows + (S - T)
    last = tl.minimum(first + BM, T) - 1
    lo, hi = row_bounds(rows, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    begin, hi_a = row_bounds(
        first, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE
    )
    lo_z, hi_z = row_bounds(last, lo_ptr, hi_ptr, T, S, window, block, CAUSAL, WINDOW, BLOCK, TABLE)
    slope = 0.0
    if SLOPES:
        slope = tl.load(slopes_ptr + h)
    after, middle = key_ranges(begin, lo_z, hi_a, hi_z, OWN, BN, WINDOW or BLOCK or TABLE)
    if OWN and not CAUSAL:  # no tile is sure to be without a row's own key
        middle = after
    if WINDOW or BLOCK or TABLE:
        dq = query_step(
            dq, q, grad, lse, delta, k_ptr + key, v_ptr + value, stride_ks, stride_vs, begin, after,
            t, lo, hi, slope, scale, S, True, OWN, SLOPES, D, BD, BN, PRECISION,
        )  # fmt: skip
    if CAUSAL or not OWN:
        dq = query_step(
            dq, q, grad, lse, delta, k_ptr + key, v_ptr + value, stride_ks, stride_vs, after, middle,
            t, lo, hi, slope, scale, S, False, False, SLOPES, D, BD, BN, PRECISION,
        )  # fmt: skip
    dq = query_step(
        dq, q, grad, lse, delta, k_ptr + key, v_ptr + value, stride_ks, stride_vs, middle, hi_z, t,
        lo, hi, slope, scale, S, True, OWN, SLOPES, D, BD, BN, PRECISION,
    )  # fmt: skip
    store_rows(dq_ptr + row, dq * unit, first, stride_dt, T, D, BD, BM)


TILES = {
    16: Tiles(128, 64, 8, 3),
    32: Tiles(128, 64, 8, 3),
    64: Tiles(128, 64, 8, 3),
    128: Tiles(128, 64, 8, 3),
    256: Tiles(64, 32, 8, 2),
}


def backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: tuple[Tensor, Tensor] | None,
    mask: Mask,
    scale: float,
    slopes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    past_k, past_v = (k, v) if past is None else past
    k, past_k = alike(k, past_k)
    v, past_v = alike(v, past_v)
    q, grad_out = dense(q, grad_out)
    dq = by_heads(B, H, T, D, q)
    dk, dv = per_query_head(k[:, :, S - T :], H), per_query_head(v[:, :, S - T :], H)
    limit = limits(mask, T, S, q)
    tile = tiles(TILES, WIDE, D, q.dtype)
    myopic_kernel[(triton.cdiv(T, tile.BM), B * H)](
        q, past_k, past_v, k, v, out, grad_out, lse, dq, dk, dv, base_two(slopes, scale, q),
        limit.lo, limit.hi, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *grad_out.stride()[:3], *out.stride()[:3], *dq.stride()[:3], limit.table_stride, T, S, H,
        H // G, limit.window, limit.block, scale * LOG2E, scale, SLOPES=slopes is not None,
        OWN=past is not None, **shape_of(tile, D, q.dtype), **limit.flags,
    )  # fmt: skip
    dk, dv = shared(dk, G, k.dtype), shared(dv, G, v.dtype)
    if T < S:  # keys before the queries hear from no one
        dk, dv = (torch.nn.functional.pad(x, (0, 0, S - T, 0)) for x in (dk, dv))
    return dq, dk, dv


@torch.library.custom_op("transformer_zoo::myopic_triton", mutates_args=())
def myopic(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(out, lse)."""
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    if past_k is None or past_v is None:
        return forward(q, k, v, mask, scale, slopes)
    return forward(q, past_k, past_v, mask, scale, slopes, own=(k, v))


@torch.library.custom_op("transformer_zoo::myopic_triton_backward", mutates_args=())
def myopic_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    past = None if past_k is None or past_v is None else (past_k, past_v)
    grads = backward(grad_out, out, lse, q, k, v, past, mask, scale, slopes)
    if q.shape[1:3] == k.shape[1:3]:
        return grads
    return grads[0], grads[1].contiguous(), grads[2].contiguous()


@myopic.register_fake
def _(q, *_):
    B, H, T, D = q.shape
    return by_heads(B, H, T, D, q), q.new_empty(B, H, T, dtype=torch.float32)


@myopic_backward.register_fake
def _(grad_out, out, lse, q, k, v, *_):
    dq = by_heads(*q.shape, q)
    if q.shape[1:3] == k.shape[1:3]:
        return dq, by_heads(*k.shape, k), by_heads(*v.shape, v)
    return dq, k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx, inputs, output):
    *tensors, ctx.scale, ctx.is_causal, ctx.window, ctx.blocks, lengths, ids = inputs
    ctx.save_for_backward(*output, *tensors, lengths, ids)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out, _):
    *saved, lengths, ids = ctx.saved_tensors
    mask = (ctx.is_causal, ctx.window, ctx.blocks, lengths, ids)
    return *myopic_backward(grad_out, *saved, ctx.scale, *mask), *[None] * 9


myopic.register_autograd(_backward, setup_context=_setup)
