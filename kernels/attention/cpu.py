"""Attention on a CPU at the cost of what is visible: O(T * window) time and memory, both directions.

Every piece of the mask (pieces.py) is one call of torch's flash kernel. Rows that several pieces
cover are merged by their log-sum-exps,

    l = log(e^l1 + e^l2),   o = o1 e^(l1 - l) + o2 e^(l2 - l),

and the backward is exact because the flash backward needs only the merged o and l: it runs once a
piece and the gradients add. Equal pieces at a fixed step fold into the batch: one call.

ALiBi needs no mask: -slope (t - s) = slope (s - a) - slope (t - a), with a the first query of the
piece, and the second term is constant along a row, so it only shifts the log-sum-exp.

Shapes: q, out (B, H, T, D); k, v (B, G, S, D); lse (B, H, T), float32 or float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.masks import Mask
from kernels.attention.pieces import Piece, cut
from kernels.attention.reference import grouped

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_TRIANGLES = ("causal", "after")
_PAD = 8  # columns appended to carry the log-sum-exp's gradient; a whole vector keeps rows aligned


def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask,
    *,
    scale: float | None = None,
    slopes: Tensor | None = None,
    q_previous_BHTD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(out, lse), both differentiable in q, k, v and q_previous. All tensors on the CPU."""
    return _attention(q_BHTD, k_BGSD, v_BGSD, q_previous_BHTD, slopes, scale, *mask.fields())


@torch.library.custom_op("transformer_zoo::attention_cpu", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_previous: Tensor | None,
    slopes: Tensor | None,
    scale: float | None,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q.shape
    q, k, v = _rows(q), _rows(grouped(k, H)), _rows(grouped(v, H))
    q_previous = None if q_previous is None else _rows(q_previous)
    S = k.shape[2]
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    plan = cut(mask, T, S, local=slopes is not None)
    biases = _Biases(mask, T, S, slopes, q)
    if len(plan) == 1 and plan[0].rows == T and plan[0].keys == S and slopes is None:
        triangle = plan[0].kind == "causal"
        parts = _flash(q, k, v, 0.0, triangle, attn_mask=biases.of(plan[0]), scale=scale)
        out, lse = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in parts)
        return out, lse
    out = q.new_empty(B, T, H, v.shape[-1]).transpose(1, 2)
    lse = q.new_empty(B, T, H, dtype=torch.promote_types(q.dtype, torch.float32)).transpose(1, 2)
    for piece in plan:
        bias = biases.of(piece)
        queries = q_previous if piece.previous and q_previous is not None else q
        for (q4, out4, lse3), kv4 in _views(piece, (queries, out, lse), (k, v)):
            q4, k4, v4 = _flipped(piece, q4, *kv4)
            triangle = piece.kind in _TRIANGLES
            o, l = _flash(q4, k4, v4, 0.0, triangle, attn_mask=bias, scale=scale)
            o, l = _flipped(piece, o, l)
            if piece.adds:
                out4.lerp_(o, torch.sigmoid(l - lse3).unsqueeze(-1).to(o.dtype))
                lse3.copy_(torch.logaddexp(lse3, l))
            else:
                out4.copy_(o)
                lse3.copy_(l)
    if slopes is not None:
        lse -= biases.row_shift(plan)
    return out, lse


@torch.library.custom_op("transformer_zoo::attention_cpu_backward", mutates_args=())
def _attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_previous: Tensor | None,
    slopes: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float | None,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and q_previous (empty where there is none)."""
    H, T, D = q.shape[1:]
    G, S = k.shape[1:3]
    q, k, v, grad_out = _rows(q), _rows(grouped(k, H)), _rows(grouped(v, H)), _rows(grad_out)
    q_previous = None if q_previous is None else _rows(q_previous)
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    plan = cut(mask, T, S, local=slopes is not None)
    biases = _Biases(mask, T, S, slopes, q)
    if slopes is not None:
        lse = lse + biases.row_shift(plan)
    if grad_lse is not None:
        # dS = P (dP - delta + dlse): a column of ones in v whose output gradient is dlse, and whose
        # output counts as 0 in delta, adds dlse to dP and nothing else.
        scale = D**-0.5 if scale is None else scale
        q, k, v, out, grad_out = (F.pad(x, (0, _PAD)) for x in (q, k, v, out, grad_out))
        q_previous = None if q_previous is None else F.pad(q_previous, (0, _PAD))
        v[..., D], grad_out[..., D] = 1.0, grad_lse
    dq, dk, dv = (torch.zeros_like(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))
    dq_previous = q.new_empty(0) if q_previous is None else torch.zeros_like(dq)
    for piece in plan:
        bias = biases.of(piece)
        queries, dqueries = q, dq
        if piece.previous and q_previous is not None:
            queries, dqueries = q_previous, dq_previous
        rows = (queries, out, lse, grad_out, dqueries)
        for (q4, out4, lse3, grad4, dq4), (k4, v4, dk4, dv4) in _views(piece, rows, (k, v, dk, dv)):
            q4, k4, v4, out4, lse3, grad4 = _flipped(piece, q4, k4, v4, out4, lse3, grad4)
            triangle = piece.kind in _TRIANGLES
            grads = _flash_backward(
                grad4, q4, k4, v4, out4, lse3, 0.0, triangle, attn_mask=bias, scale=scale
            )
            for total, grad in zip((dq4, dk4, dv4), _flipped(piece, *grads)):
                total.add_(grad)
    if grad_lse is not None:
        dq, dk, dv = (x[..., :D].clone() for x in (dq, dk, dv))
        dq_previous = dq_previous if q_previous is None else dq_previous[..., :D].clone()
    if G != H:
        dk, dv = (x.unflatten(1, (G, -1)).sum(2) for x in (dk, dv))
    return dq, dk, dv, dq_previous


@_attention.register_fake
def _(q, k, v, *_):
    B, H, T, _ = q.shape
    lse = q.new_empty(B, T, H, dtype=torch.promote_types(q.dtype, torch.float32))
    return q.new_empty(B, T, H, v.shape[-1]).transpose(1, 2), lse.transpose(1, 2)


@_attention_backward.register_fake
def _(grad_out, grad_lse, q, k, v, q_previous, *_):
    grads = [torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v)]
    return *grads, q.new_empty(0) if q_previous is None else torch.empty_like(grads[0])


def _setup(ctx, inputs, output):
    q, k, v, q_previous, slopes, ctx.scale, ctx.is_causal, ctx.window, ctx.blocks, lengths, ids = (
        inputs
    )
    ctx.save_for_backward(q, k, v, q_previous, slopes, *output, lengths, ids)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_out, grad_lse):
    q, k, v, q_previous, slopes, out, lse, lengths, ids = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    saved = (q, k, v, q_previous, slopes, out, lse, ctx.scale)
    mask = (ctx.is_causal, ctx.window, ctx.blocks, lengths, ids)
    dq, dk, dv, dq_previous = _attention_backward(grad_out, grad_lse, *saved, *mask)
    return dq, dk, dv, None if q_previous is None else dq_previous, *[None] * 7


_attention.register_autograd(_backward, setup_context=_setup)


def _rows(x: Tensor) -> Tensor:
    """x with its last dimension dense, as the flash kernel reads it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _flipped(piece: Piece, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Both axes reversed turn "after" (column >= row) into the kernel's causal triangle."""
    return tuple(x.flip(2) for x in tensors) if piece.kind == "after" else tensors


def _views(
    piece: Piece, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The piece's part of each (B, heads, length, ...) tensor, its blocks folded into the batch.

    One view where strides allow it, else one a sample; never a copy.
    """
    cuts = [_blocks(piece, x, piece.query, piece.rows) for x in rows]
    cuts += [_blocks(piece, x, piece.key, piece.keys) for x in columns]
    if all(x.shape[0] == 1 or x.stride(0) == piece.count * x.stride(1) for x in cuts):
        calls = [[x.flatten(0, 1) for x in cuts]]
    else:
        calls = [[x[b] for x in cuts] for b in range(cuts[0].shape[0])]
    for views in calls:
        yield views[: len(rows)], views[len(rows) :]


def _blocks(piece: Piece, x: Tensor, start: int, size: int) -> Tensor:
    """(B, count, heads, size, ...) view of the piece's part of x."""
    if piece.batch is not None:
        x = x[piece.batch : piece.batch + 1]
    if piece.count == 1:
        return x.narrow(2, start, size).unsqueeze(0 if x.shape[0] == 1 else 1)
    x = x.narrow(2, start, (piece.count - 1) * piece.step + size).unfold(2, size, piece.step)
    return x.transpose(1, 2) if x.dim() == 4 else x.permute(0, 2, 1, 4, 3)


class _Biases:
    """Additive float masks for the pieces that need one."""

    def __init__(self, mask: Mask, T: int, S: int, slopes: Tensor | None, like: Tensor):
        self.mask, self.T, self.S = mask, T, S
        self.dtype = torch.promote_types(like.dtype, torch.float32)
        self.slopes = None if slopes is None else slopes.to(self.dtype)[:, None, None]
        self.bounds: tuple[Tensor, Tensor] | None = None

    def of(self, piece: Piece) -> Tensor | None:
        """(1, 1 or H, rows, keys), or None where the piece needs none."""
        if piece.kind != "masked" and self.slopes is None:
            return None
        anchor = self.S - self.T + piece.query
        s = torch.arange(piece.key, piece.key + piece.keys)
        if piece.kind != "masked":
            assert self.slopes is not None
            bias = self.slopes * (s.flip(0) if piece.kind == "after" else s).sub(anchor)
            return bias.expand(-1, piece.rows, -1).unsqueeze(0)
        if self.bounds is None:
            self.bounds = self.mask.bounds(self.T, self.S)
        lo, hi = (x if piece.batch is None else x[piece.batch] for x in self.bounds)
        part = slice(piece.query, piece.query + piece.rows)
        hidden = (s < lo[part, None]) | (s >= hi[part, None])
        if self.slopes is None:
            bias = torch.zeros(hidden.shape, dtype=self.dtype).unsqueeze(0)
        else:
            t = torch.arange(anchor, anchor + piece.rows)[:, None]
            bias = self.slopes * (t - anchor - (t - s).abs())
        return bias.masked_fill(hidden, -torch.inf).unsqueeze(0)

    def row_shift(self, plan: list[Piece]) -> Tensor:
        """(H, T): slope * (t - anchor), what the pieces' scores exceed the true ones by."""
        assert self.slopes is not None
        rows = torch.zeros(self.T, dtype=self.dtype)
        for piece in plan:
            if not piece.adds:
                end = piece.query + (piece.count - 1) * piece.step + piece.rows
                rows[piece.query : end] = torch.arange(piece.rows, dtype=self.dtype).repeat(
                    piece.count
                )
        return self.slopes.squeeze(-1) * rows
