"""The specification of the next-token loss from hidden states.

    z = hidden weight' + bias          l_n = log sum_c exp(z_nc) - z_{n, target_n}
    loss = sum_n w_n l_n / sum_n w_n   ("mean")   or   sum_n w_n l_n   ("sum")

Tokens whose target is ignore_index have l = 0 and w = 0.

Shapes: N tokens, C width, V vocabulary; hidden (N, C), weight (V, C), bias (V,), targets (N,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    *,
    bias: Tensor | None = None,
    weights_N: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """(loss (), losses (N,)): holds the (N, V) logits."""
    logits = F.linear(hidden_NC, weight_VC, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, targets_N, ignore_index=ignore_index, reduction="none")
    weights = token_weights(targets_N, weights_N, ignore_index, losses.dtype)
    total = (losses * weights).sum()
    if reduction == "mean":
        total = total / weights.sum()
    return total, losses.detach()


def token_weights(
    targets_N: Tensor, weights_N: Tensor | None, ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """w (N,): the weights given, or ones, with 0 at ignored targets."""
    kept = (targets_N != ignore_index).to(dtype)
    return kept if weights_N is None else kept * weights_N.to(dtype)
