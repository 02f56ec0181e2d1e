"""The Triton kernels as torch operators, so that torch.compile sees one node and no graph break."""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention import triton_backward
from kernels.attention.masks import Mask
from kernels.attention.tiles import by_heads
from kernels.attention.triton import forward


@torch.library.custom_op("transformer_zoo::attention_triton", mutates_args=())
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_previous: Tensor | None,
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
    return forward(q, k, v, mask, scale, slopes, q_previous)


@torch.library.custom_op("transformer_zoo::attention_triton_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_previous: Tensor | None,
    slopes: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and q_previous (empty where there is none)."""
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    saved = (q, k, v, out, lse, mask, scale, slopes, q_previous)
    dq, dk, dv, dprevious = triton_backward.backward(grad_out, grad_lse, *saved)
    return dq, dk, dv, q.new_empty(0) if dprevious is None else dprevious


@attention.register_fake
def _(q, k, v, *_):
    B, H, T, D = q.shape
    return by_heads(B, H, T, D, q), q.new_empty(B, H, T, dtype=torch.float32)


@attention_backward.register_fake
def _(grad_out, grad_lse, q, k, v, q_previous, *_):
    dq, dk, dv = (by_heads(*x.shape, x) for x in (q, k, v))
    return dq, dk, dv, q.new_empty(0) if q_previous is None else torch.empty_like(dq)


def _setup(ctx, inputs, output):
    *tensors, ctx.scale, ctx.is_causal, ctx.window, ctx.blocks, lengths, ids = inputs
    ctx.save_for_backward(*tensors, *output, lengths, ids)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_out, grad_lse):
    *tensors, out, lse, lengths, ids = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    mask = (ctx.is_causal, ctx.window, ctx.blocks, lengths, ids)
    grads = attention_backward(grad_out, grad_lse, *tensors, out, lse, ctx.scale, *mask)
    dq, dk, dv, dprevious = grads
    return dq, dk, dv, None if tensors[3] is None else dprevious, *[None] * 7


attention.register_autograd(_backward, setup_context=_setup)
