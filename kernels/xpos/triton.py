"""Rotation of queries and keys on a GPU in one pass and one launch: read once, turned in float32,
written once. A program keeps a tile of the factor table in registers and walks over heads with it.

Shapes: q (B, H, T, D), k (B, G, S, D), their factors (T, D / 2, 2) and (S, D / 2, 2) float32.
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
from kernels.attention.tiles import INTERPRETED, by_heads, dense, padded
from kernels.attention.triton import forward

ROWS = 32 if INTERPRETED else 64
HEADS = 8  # heads a program walks over


@triton.jit
def turn(
    x_ptr, y_ptr, factors_ptr, stride_xb, stride_xh, stride_xt, stride_yb, stride_yh, stride_yt,
    first, b, h_first, T, H, sign, D: tl.constexpr, BP: tl.constexpr, ROWS: tl.constexpr,
    HEADS: tl.constexpr, INTERLEAVED: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    rows = first + tl.arange(0, ROWS)
    pair = tl.arange(0, BP)
    inside = (rows < T)[:, None] & (pair < D // 2)[None, :]
    d = tl.arange(0, 2 * BP)
    inside_d = (rows < T)[:, None] & (d < D)[None, :]
    place = factors_ptr + rows[:, None].to(tl.int64) * D + d[None, :]
    table = tl.load(place, mask=inside_d, other=0.0)
    real, imaginary = tl.split(tl.reshape(table, (ROWS, BP, 2)))
    imaginary *= sign
    for h in range(h_first, tl.minimum(h_first + HEADS, H)):
        x = x_ptr + b * stride_xb + h * stride_xh + rows[:, None].to(tl.int64) * stride_xt
        y = y_ptr + b * stride_yb + h * stride_yh + rows[:, None].to(tl.int64) * stride_yt
        if INTERLEAVED:
            both = tl.load(x + d[None, :], mask=inside_d, other=0.0).to(tl.float32)
            one, two = tl.split(tl.reshape(both, (ROWS, BP, 2)))
        else:
            one = tl.load(x + pair[None, :], mask=inside, other=0.0).to(tl.float32)
            two = tl.load(x + (pair + D // 2)[None, :], mask=inside, other=0.0).to(tl.float32)
        new_one = one * real - two * imaginary
        new_two = two * real + one * imaginary
        if NEIGHBOURS:
            both = tl.reshape(tl.join(new_one, new_two), (ROWS, 2 * BP))
            tl.store(y + d[None, :], both.to(y_ptr.dtype.element_ty), mask=inside_d)
        else:
            tl.store(y + pair[None, :], new_one.to(y_ptr.dtype.element_ty), mask=inside)
            tl.store(y + (pair + D // 2)[None, :], new_two.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rotate_kernel(
    q_ptr, k_ptr, q_out_ptr, k_out_ptr, q_factors_ptr, k_factors_ptr, stride_qb, stride_qh,
    stride_qt, stride_kb, stride_kh, stride_kt, stride_ub, stride_uh, stride_ut, stride_wb,
    stride_wh, stride_wt, T, S, H, G, query_tiles, sign, D: tl.constexpr, BP: tl.constexpr,
    ROWS: tl.constexpr, HEADS: tl.constexpr, INTERLEAVED: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of q's rows, then of k's; B; groups of heads). sign -1 turns back (the gradient).
    Pairs are neighbours or halves apart, as INTERLEAVED says on the way in, NEIGHBOURS on the way out.
    """
    tile = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    h = tl.program_id(2) * HEADS
    if tile < query_tiles:
        turn(
            q_ptr, q_out_ptr, q_factors_ptr, stride_qb, stride_qh, stride_qt, stride_ub, stride_uh,
            stride_ut, tile * ROWS, b, h, T, H, sign, D, BP, ROWS, HEADS, INTERLEAVED,
            NEIGHBOURS,
        )  # fmt: skip
    else:
        turn(
            k_ptr, k_out_ptr, k_factors_ptr, stride_kb, stride_kh, stride_kt, stride_wb, stride_wh,
            stride_wt, (tile - query_tiles) * ROWS, b, h, S, G, sign, D, BP, ROWS, HEADS,
            INTERLEAVED, NEIGHBOURS,
        )  # fmt: skip


def rotate(
    q: Tensor,
    k: Tensor | None,
    q_factors: Tensor,
    k_factors: Tensor,
    layout: str,
    back: bool,
    *,
    neighbours: bool = False,
) -> tuple[Tensor, Tensor]:
    """(q', k') in the memory layout of attention's output, k' empty without k; back: by the conjugate
    factors. neighbours: pairs leave as neighbours, whatever the layout."""
    B, H, T, D = q.shape
    alone = k is None
    q, k = dense(q, q if k is None else k)
    G, S = (H, 0) if alone else k.shape[1:3]
    q_out = by_heads(B, H, T, D, q)
    k_out = q.new_empty(0) if alone else by_heads(B, G, S, D, k)
    query_tiles = triton.cdiv(T, ROWS)
    rotate_kernel[(query_tiles + triton.cdiv(S, ROWS), B, triton.cdiv(max(H, G), HEADS))](
        q, k, q_out, k_out, q_factors.contiguous(), k_factors.contiguous(), *q.stride()[:3],
        *k.stride()[:3], *q_out.stride()[:3], *(q_out if alone else k_out).stride()[:3], T, S, H,
        G, query_tiles, -1.0 if back else 1.0, D=D, BP=padded(D) // 2, ROWS=ROWS, HEADS=HEADS,
        INTERLEAVED=layout == "interleaved",
        NEIGHBOURS=layout == "interleaved" or neighbours,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return q_out, k_out


@torch.library.custom_op("transformer_zoo::rotate_triton", mutates_args=())
def rotate_op(
    q: Tensor, k: Tensor | None, q_factors: Tensor, k_factors: Tensor, layout: str, back: bool
) -> tuple[Tensor, Tensor]:
    return rotate(q, k, q_factors, k_factors, layout, back)


@torch.library.custom_op("transformer_zoo::xpos_attention_triton", mutates_args=())
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_factors: list[Tensor],
    k_factors: Tensor,
    layout: str,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> Tensor:
    """Attention of rotated q and k: keys turned in one pass, queries inside. Forward only."""
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    k, _ = rotate(k, None, k_factors, k_factors, layout, False, neighbours=True)
    tables = tuple(x.contiguous() for x in q_factors)
    return forward(q, k, v, mask, scale, factors=tables, layout=layout)[0]


@attention_op.register_fake
def _(q, *_):
    return by_heads(*q.shape, q)


@rotate_op.register_fake
def _(q, k, *_):
    return by_heads(*q.shape, q), q.new_empty(0) if k is None else by_heads(*k.shape, k)


def _setup(ctx, inputs, output):
    _, k, q_factors, k_factors, ctx.layout, ctx.back = inputs
    ctx.alone = k is None
    ctx.save_for_backward(q_factors, k_factors)


def _backward(ctx, grad_q, grad_k):
    grad_k = None if ctx.alone else grad_k
    grads = rotate_op(grad_q, grad_k, *ctx.saved_tensors, ctx.layout, not ctx.back)
    return grads[0], None if ctx.alone else grads[1], None, None, None, None


rotate_op.register_autograd(_backward, setup_context=_setup)
