"""Two gradients instead of one, without a second forward pass or a T x T matrix.

For query i let p_i = P_ii and c_i = m_ii P_ii (m the dropout factor, 1 without), delta_i = dO_i . o_i.
What reaches key and value of position j

    in all        dK_j = scale sum_i dS_ij q_i                    dV_j = sum_i m_ij P_ij dO_i
    from itself   dk_j = scale (c_j dO_j . v_j - p_j delta_j) q_j  dv_j = c_j dO_j

`own_position` delivers the second beside the first. It travels on a *handle*: a tensor whose value is
never read, shaped like the keys and values of one projection, made by

    read_by_others(x, W, b)     hidden states cut: W and b get what comes in all, x what comes from itself
    written_by_owner(k)         keys and values cut: everything gets what comes from itself

each mixed with beta times the rest: x (or everything) gets (1 - beta) own + beta all.

Shapes: x (B, T, C), qkv (B, T, (H + 2G) D) and its handle (B, T, 2GD); q, out (B, H, T, D), k, v and
their handles (B, G, T, D), p, kept (B, H, T).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


class _ReadByOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, own_width: int, beta: float):
        ctx.save_for_backward(x, weight)
        ctx.beta, ctx.has_bias = beta, bias is not None
        qkv = linear(x, weight, bias)
        return qkv, _handle(qkv, own_width)

    @staticmethod
    def backward(ctx: Any, grad, own):  # type: ignore[override]
        x, weight = ctx.saved_tensors
        first = grad.shape[-1] - own.shape[-1]
        rows = grad.flatten(0, -2)
        grad_weight = (rows.T @ x.to(grad.dtype).flatten(0, -2)).to(weight.dtype)
        grad_bias = rows.sum(0).to(weight.dtype) if ctx.has_bias else None
        if ctx.beta:
            own = own.lerp(grad[..., first:], ctx.beta)
        weight = weight.to(grad.dtype)
        grad_x = rows[:, :first] @ weight[:first]
        grad_x.addmm_(own.flatten(0, -2), weight[first:])
        return grad_x.view(x.shape).to(x.dtype), grad_weight, grad_bias, None, None


class _WrittenByOwner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, beta: float):
        ctx.beta = beta
        return x.view_as(x), _handle(x, x.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad, own):  # type: ignore[override]
        return own.lerp(grad, ctx.beta), None


class _OwnPosition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out, q, k, v, k_handle, v_handle, p, kept, scale: float):
        ctx.save_for_backward(out, q, k, v, p, kept)
        ctx.scale = scale
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[override]
        out, q, k, v, p, kept = ctx.saved_tensors
        kept = p if kept is None else kept
        G = k.shape[1]
        delta = dot(grad, out)
        ds = ctx.scale * (kept * dot(grad, v) - p * delta)
        dk, dv = _summed(ds, q, G), _summed(kept, grad, G)
        return grad, None, None, None, dk.to(k.dtype), dv.to(v.dtype), None, None, None


def read_by_others(
    x_BTC: Tensor, weight: Tensor, bias: Tensor | None, *, own_width: int, beta: float
) -> tuple[Tensor, Tensor]:
    """(qkv, handle) of a projection whose last `own_width` outputs are keys and values.

    The weights receive the gradient of qkv; x receives, through those last outputs, the handle's.
    """
    return _ReadByOthers.apply(x_BTC, weight, bias, own_width, beta)  # type: ignore[return-value]


def written_by_owner(x_BGTD: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """(x, handle) of keys or values: x receives the handle's gradient, mixed with beta of its own."""
    return _WrittenByOwner.apply(x_BGTD, beta)  # type: ignore[return-value]


def own_position(
    out_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    handles: tuple[Tensor, Tensor],
    *,
    p_BHT: Tensor,
    kept_BHT: Tensor | None,
    scale: float,
) -> Tensor:
    """`out`, whose backward also sends what comes from each position itself to the handles of k, v.

    p, kept: each query's softmax weight on its own key, before and after dropout (None: no dropout).
    """
    fixed = (x.detach() for x in (q_BHTD, k_BGTD, v_BGTD))
    return _OwnPosition.apply(out_BHTD, *fixed, *handles, p_BHT, kept_BHT, scale)  # type: ignore[return-value]


def dot(a_BHTD: Tensor, b_BGTD: Tensor) -> Tensor:
    """(B, H, T): the product of each query head's rows with those of its key head, at least float32."""
    G = b_BGTD.shape[1]
    exact = torch.promote_types(a_BHTD.dtype, torch.float32)
    a, b = a_BHTD.unflatten(1, (G, -1)).to(exact), b_BGTD.unsqueeze(2).to(exact)
    if a_BHTD.shape[1] == G:
        return torch.linalg.vecdot(a, b).squeeze(2)
    return torch.linalg.vecdot(a, b).flatten(1, 2)


def _summed(weight_BHT: Tensor, x_BHTD: Tensor, G: int) -> Tensor:
    """(B, G, T, D): weight times x, summed over the query heads of each key head."""
    weighted = weight_BHT.unsqueeze(-1) * x_BHTD
    return weighted if x_BHTD.shape[1] == G else weighted.unflatten(1, (G, -1)).sum(2)


def _handle(like: Tensor, width: int) -> Tensor:
    """Takes no memory: it stands for a gradient, not for a value."""
    return like.new_zeros(()).expand(*like.shape[:-1], width)
