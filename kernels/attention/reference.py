"""The specification of attention under an interval mask: dense, any float dtype, float64 included.

    e_ts = scale * q_t . k_s - slope_h * |t - s| + bias_ts      for lo(t) <= s < hi(t), else -inf
    lse_t = log sum_s exp(e_ts)
    out_t = sum_s exp(e_ts - lse_t) v_s                         0 where the row sees no key

With a blockwise mask of block h, `q_previous` takes the place of q against keys of the previous
block, s // h = t // h - 1: that is how rotary queries get window-local positions (xpos.op).

Masked scores are overwritten, never added to, so an overflow under the mask cannot reach the output.

Shapes: q (B, H, T, D), k and v (B, G, S, D) with H a multiple of G, out (B, H, T, D), lse (B, H, T).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.masks import Mask


def scores(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    mask: Mask,
    *,
    scale: float | None = None,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    q_previous_BHTD: Tensor | None = None,
) -> Tensor:
    """Masked scores e (B, H, T, S), -inf where hidden."""
    T, S = q_BHTD.shape[-2], k_BGSD.shape[-2]
    scale = 1 / math.sqrt(q_BHTD.shape[-1]) if scale is None else scale
    k_BHSD = grouped(k_BGSD, q_BHTD.shape[1])
    e = scale * (q_BHTD @ k_BHSD.transpose(-1, -2))
    t = torch.arange(S - T, S, device=e.device)[:, None]
    s = torch.arange(S, device=e.device)
    if q_previous_BHTD is not None:
        if mask.block is None:
            raise ValueError("q_previous needs a mask with one blockwise_causal(block)")
        previous = scale * (q_previous_BHTD @ k_BHSD.transpose(-1, -2))
        e = torch.where(t // mask.block == s // mask.block, e, previous)
    if slopes is not None:
        e = e - slopes.to(e.dtype)[:, None, None] * (t - s).abs()
    if bias is not None:
        e = e + bias
    visible = mask.dense(T, S, device=e.device)
    return e.masked_fill(~(visible[:, None] if visible.dim() == 3 else visible), -math.inf)


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
) -> tuple[Tensor, Tensor]:
    """(out (B, H, T, D), lse (B, H, T)); lse is -inf where a row sees no key."""
    e = scores(
        q_BHTD,
        k_BGSD,
        mask,
        scale=scale,
        slopes=slopes,
        bias=bias,
        q_previous_BHTD=q_previous_BHTD,
    )
    # A finite stand-in for the maximum of an empty row keeps exp and its gradient free of NaN.
    lowest = torch.finfo(e.dtype).min
    top = F.pad(e.detach(), (0, 1), value=lowest).amax(-1, keepdim=True)
    weights = (e - top).exp()
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    lse = (total.log() + top).masked_fill(empty, -math.inf).squeeze(-1)
    weights = weights / total
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ grouped(v_BGSD, q_BHTD.shape[1]), lse


def grouped(x_BGSD: Tensor, num_heads: int) -> Tensor:
    """Repeat each of the G key-value heads for its H / G query heads: (B, H, S, D)."""
    G = x_BGSD.shape[1]
    return x_BGSD if num_heads == G else x_BGSD.repeat_interleave(num_heads // G, dim=1)
