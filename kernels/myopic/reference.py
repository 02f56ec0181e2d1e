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

import torch
from torch import Tensor

from kernels.attention.masks import Mask
from kernels.attention.reference import grouped, scores


def myopic_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask,
    *,
    past: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    q_previous_BHTD: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """(B, H, T, D), by dense scores and autograd."""
    H, T, D = q_BHTD.shape[1:]
    S = k_BGSD.shape[2]
    other_k, other_v = (x.detach() for x in ((k_BGSD, v_BGSD) if past is None else past))
    own_k, own_v = (grouped(x, H)[:, :, S - T :] for x in (k_BGSD, v_BGSD))
    e = scores(
        q_BHTD,
        other_k,
        mask,
        scale=scale,
        slopes=slopes,
        bias=bias,
        q_previous_BHTD=q_previous_BHTD,
    )
    # The diagonal's score, exchanged for the live key's by adding the difference.
    scale = float(D**-0.5) if scale is None else scale
    change = scale * (q_BHTD * (own_k - grouped(other_k, H)[:, :, S - T :])).sum(-1, keepdim=True)
    t = torch.arange(S - T, S, device=e.device)[:, None]
    own = torch.arange(S, device=e.device) == t
    weights = torch.where(own, e + change, e).softmax(-1)
    weights = torch.nn.functional.dropout(weights, dropout) if dropout else weights
    diagonal = weights.gather(-1, t.expand(*weights.shape[:3], 1))
    return weights.masked_fill(own, 0.0) @ grouped(other_v, H) + diagonal * own_v
