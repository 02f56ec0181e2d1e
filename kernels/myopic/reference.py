"""The specification of myopic attention: keys and values receive only their own position's gradient.

The forward is ordinary attention. In the backward of query i every other position's key and value is
a constant, so with P = softmax weights, delta_i = dO_i . o_i and dS_ij = P_ij (dO_i . v_j - delta_i):

    dq_i = scale sum_j dS_ij k_j        as always
    dk_i = scale dS_ii q_i              dv_i = P_ii dO_i

With `past` = (k0, v0), the states of a frozen model, query i sees k0_j, v0_j at every j != i and its
own live k_i, v_i at j = i; nothing flows to the past.

Shapes: q (B, H, T, D), k, v and the past (B, G, S, D); the queries are the last T of S positions, so
keys before S - T get no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.attention.masks import Mask, causal
from kernels.attention.reference import grouped


def myopic_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask | None = None,
    *,
    past: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """(B, H, T, D), by dense scores and autograd."""
    H, T, D = q_BHTD.shape[1:]
    S = k_BGSD.shape[2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    own_k, own_v = (grouped(x, H)[:, :, S - T :] for x in (k_BGSD, v_BGSD))
    others = (k_BGSD, v_BGSD) if past is None else past
    other_k, other_v = (grouped(x.detach(), H) for x in others)
    t = torch.arange(S - T, S, device=q_BHTD.device)[:, None]
    s = torch.arange(S, device=q_BHTD.device)
    e = scale * (q_BHTD @ other_k.transpose(-1, -2))
    e = torch.where(s == t, scale * (q_BHTD * own_k).sum(-1, keepdim=True), e)
    if slopes is not None:
        e = e - slopes.to(e.dtype)[:, None, None] * (t - s).abs()
    visible = (mask or causal()).dense(T, S, q_BHTD.device)
    visible = visible[:, None] if visible.dim() == 3 else visible
    weights = e.masked_fill(~visible, -math.inf).softmax(-1)
    own = weights.gather(-1, t.expand(*weights.shape[:3], 1))
    return weights.masked_fill(s == t, 0.0) @ other_v + own * own_v
