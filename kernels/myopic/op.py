"""Myopic attention: ordinary forward, and a backward that gives keys and values only their own
position's gradient. Definition and shapes: `reference.py`.

Each row of every gradient has one owner, so the backward walks the forward's loop once, with three
matmuls a tile (S, dP, dQ) where the ordinary backward has five, and no second pass over the keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.attention.masks import Mask, causal
from kernels.attention.op import attention
from kernels.attention.reference import grouped
from kernels.dispatch import use_triton
from kernels.myopic import cpu, reference

IMPLS = ("auto", "reference", "triton")
CAUSAL = causal()


def myopic_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask = CAUSAL,
    *,
    past: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    q_previous_BHTD: Tensor | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """(B, H, T, D). past: (k0, v0) of a frozen model, shaped like k and v, seen at every position but
    a query's own, and given no gradient. Everything else as in attention.op.attention.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if past is not None and not past[0].shape == past[1].shape == k_BGSD.shape:
        raise ValueError(
            f"myopic_attention: past must be shaped like k, {tuple(k_BGSD.shape)}, got "
            f"{tuple(past[0].shape)} and {tuple(past[1].shape)}"
        )
    if q_BHTD.shape[2] > k_BGSD.shape[2]:
        raise ValueError(
            f"myopic_attention: {q_BHTD.shape[2]} queries but {k_BGSD.shape[2]} keys: the queries "
            "must be the last of the keys"
        )
    kind = q_BHTD.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q_BHTD, k_BGSD, v_BGSD = q_BHTD.to(dtype), k_BGSD.to(dtype), v_BGSD.to(dtype)
        past = None if past is None else (past[0].to(dtype), past[1].to(dtype))
    unsupported = (
        ""
        if bias is None and q_previous_BHTD is None and not dropout
        else ("bias, q_previous and dropout have no kernel")
    )
    tensors = (q_BHTD, k_BGSD, v_BGSD, *(past or (None, None)))
    if use_triton("myopic_attention", impl, *tensors, unsupported=unsupported):
        from kernels.myopic import triton

        scale = float(q_BHTD.shape[-1] ** -0.5) if scale is None else scale
        mask = mask.within(k_BGSD.shape[2]).to(q_BHTD.device)
        return triton.myopic(*tensors, slopes, scale, *mask.fields())[0]
    options: dict[str, Any] = dict(scale=scale, slopes=slopes)
    dense = bias is not None or dropout > 0 or impl == "reference"
    if not dense and q_previous_BHTD is not None and past is None:
        return _by_diagonal(q_BHTD, k_BGSD, v_BGSD, mask, scale, slopes, q_previous_BHTD)
    if dense or q_previous_BHTD is not None or kind != "cpu":
        return reference.myopic_attention(
            q_BHTD,
            k_BGSD,
            v_BGSD,
            mask,
            past=past,
            bias=bias,
            q_previous_BHTD=q_previous_BHTD,
            dropout=dropout,
            **options,
        )
    scale = float(q_BHTD.shape[-1] ** -0.5) if scale is None else scale
    return cpu.attention(q_BHTD, k_BGSD, v_BGSD, mask, past, scale, slopes)


def _by_diagonal(q, k, v, mask, scale, slopes, q_previous) -> Tensor:
    """From any attention with a log-sum-exp: constant keys and values, plus a term that is 0 and whose
    gradients are those of the diagonal. With ' for detached and p = exp(s q'.k' - lse'), it is
    p (v - v') + p s q'.(k - k') (v' - o').
    """
    fixed_k, fixed_v = k.detach(), v.detach()
    out, lse = attention(
        q,
        fixed_k,
        fixed_v,
        mask,
        scale=scale,
        slopes=slopes,
        q_previous_BHTD=q_previous,
        return_lse=True,
    )
    H, T, D = q.shape[1:]
    scale = D**-0.5 if scale is None else scale
    own_k, own_v, fixed_k, fixed_v = (grouped(x, H)[:, :, -T:] for x in (k, v, fixed_k, fixed_v))
    with torch.no_grad():
        p = (scale * (q * fixed_k).sum(-1, dtype=lse.dtype) - lse).exp().to(q.dtype).unsqueeze(-1)
    pull = scale * (q.detach() * (own_k - fixed_k)).sum(-1, keepdim=True)
    return out + p * (own_v - fixed_v) + p * pull * (fixed_v - out.detach())
