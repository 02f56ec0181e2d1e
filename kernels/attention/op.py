"""Softmax attention under any interval mask: out_t = softmax over lo(t) <= s < hi(t) of q_t . k_s, times v.

`reference.py` is the specification. impl="auto" takes the fastest form that the device and the
arguments allow: torch's own kernel for plain causal and full attention, `cpu.py` on a CPU, `triton.py`
on a GPU, and the reference where none of them applies.

Shapes: q (B, H, T, D), k and v (B, G, S, D), H a multiple of G, T <= S (the queries are the last T of
the S positions), out (B, H, T, D), lse (B, H, T).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import cpu, reference
from kernels.attention.masks import Mask
from kernels.dispatch import use_triton

IMPLS = ("auto", "reference", "triton")
SHORT = 512  # keys up to which the CPU reads masks that differ by sample as dense ones


def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask,
    *,
    scale: float | None = None,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    q_previous_BHTD: Tensor | None = None,
    dropout: float = 0.0,
    return_lse: bool = False,
    impl: str = "auto",
) -> Any:
    """out (B, H, T, D), or (out, lse (B, H, T)) with return_lse.

    scale: of the scores, 1 / sqrt(D) when None. slopes: (H,) ALiBi slopes m, adding -m |t - s|.
    bias: added to the scores, broadcastable to (B, H, T, S), may require grad. q_previous: with one
    blockwise_causal limit, the queries to use against the keys of the previous block. dropout: of
    the softmax weights, always on when above 0. lse: float32 or wider, differentiable.

    ValueError for shapes that do not fit; RuntimeError where an explicit impl cannot run.
    """
    if q_previous_BHTD is None:
        mask = mask.within(k_BGSD.shape[2])
    _check(q_BHTD, k_BGSD, v_BGSD, mask, q_previous_BHTD, impl)
    square = q_BHTD.shape[2] == k_BGSD.shape[2]
    if (
        impl == "auto"
        and ((mask.is_plain_causal and square) or mask.is_full)
        and bias is None
        and slopes is None
        and q_previous_BHTD is None
        and not return_lse
    ):
        gqa = q_BHTD.shape[1] != k_BGSD.shape[1]
        causal = mask.is_causal
        return F.scaled_dot_product_attention(
            q_BHTD, k_BGSD, v_BGSD, None, dropout, causal, scale=scale, enable_gqa=gqa
        )
    kind = q_BHTD.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q_BHTD, k_BGSD, v_BGSD = q_BHTD.to(dtype), k_BGSD.to(dtype), v_BGSD.to(dtype)
        q_previous_BHTD = None if q_previous_BHTD is None else q_previous_BHTD.to(dtype)
    options: dict[str, Any] = dict(scale=scale, slopes=slopes, q_previous_BHTD=q_previous_BHTD)
    mask = mask.to(q_BHTD.device)
    dense = bias is not None or dropout > 0 or (slopes is not None and slopes.requires_grad)
    unsupported = "dense biases, learned slopes and dropout have no kernel" if dense else ""
    tensors = (q_BHTD, k_BGSD, v_BGSD, q_previous_BHTD)
    if use_triton("attention", impl, *tensors, unsupported=unsupported):
        from kernels.attention import triton_op

        scale = float(q_BHTD.shape[-1] ** -0.5) if scale is None else scale
        out, lse = triton_op.attention(*tensors, slopes, scale, *mask.fields())
        return (out, lse) if return_lse else out
    mixed = q_previous_BHTD is not None and not mask.is_plain_blockwise
    # A call a sample costs more than the hidden pairs of short sequences do.
    short = mask.per_sample and k_BGSD.shape[2] <= SHORT and not return_lse
    if impl == "auto" and kind == "cpu" and not dense and not mixed and not short:
        out, lse = cpu.attention(q_BHTD, k_BGSD, v_BGSD, mask, **options)
    elif impl == "auto" and not return_lse and q_previous_BHTD is None:
        return _masked_sdpa(q_BHTD, k_BGSD, v_BGSD, mask, scale, slopes, bias, dropout)
    else:
        out, lse = reference.attention(
            q_BHTD, k_BGSD, v_BGSD, mask, bias=bias, dropout=dropout, **options
        )
    return (out, lse) if return_lse else out


def _masked_sdpa(q, k, v, mask, scale, slopes, bias, dropout) -> Tensor:
    """torch's kernel under an explicit (T, S) mask: what a dense bias or dropout leaves possible."""
    T, S = q.shape[2], k.shape[2]
    visible = mask.dense(T, S, q.device)
    visible = visible[:, None] if visible.dim() == 3 else visible
    if slopes is not None:
        t = torch.arange(S - T, S, device=q.device)[:, None]
        distance = (t - torch.arange(S, device=q.device)).abs()
        alibi = -slopes[:, None, None] * distance
        bias = alibi if bias is None else bias + alibi
    attn_mask = visible if bias is None else bias.to(q.dtype).masked_fill(~visible, -torch.inf)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask, dropout, False, scale=scale, enable_gqa=gqa
    )


def _check(q, k, v, mask, q_previous, impl) -> None:
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"attention needs q (B, H, T, D) and k, v (B, G, S, D), got "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[0] != k.shape[0] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"attention needs equal batches and a multiple of the {k.shape[1]} key heads, got q "
            f"{tuple(q.shape)}"
        )
    if mask.batch not in (None, 1, q.shape[0]):
        raise ValueError(f"the mask is for {mask.batch} samples, q has {q.shape[0]}")
    if q_previous is not None and (mask.block is None or q_previous.shape != q.shape):
        raise ValueError("q_previous needs a mask with one blockwise_causal(block) and q's shape")
