"""Attention resolution: how sharply attention tells a token from the one just behind it.

    p_n = e^(s[n]) / sum_k e^(s[k])        R(s) = sum_n p_n (p_n - p_(n+1))

Sun et al. 2022 (arXiv 2212.10554), Eq 3 and 11; s[n] is the expected score before the softmax at
distance n = 0 .. N-1. What follows the last one, the paper leaves open:

    tail "drop"   s[N] := s[N-1], so the last term is 0
    tail "zero"   e^(s[N]) := 0, which adds p_(N-1)^2

R does not change when a constant is added to s, and 0 <= R_zero <= sum p^2 <= 1 (the 1.08 printed in
the paper's Table 3 cannot come from its Eq 3). Since R_zero = (p_0^2 + sum (p_n - p_(n+1))^2) / 2, it
rewards a curve that swings as much as one that falls: read it beside `monotone_fraction`.
"""

from typing import Any, Literal

import torch
from torch import Tensor


def resolution(scores_N: Any, *, tail: Literal["drop", "zero"] = "drop") -> Any:
    """R of an expected score by distance: a float for (N,), a float64 tensor (...) for (..., N).

    Takes a tensor, an array or a sequence. Raises ValueError for an empty or non-finite one.
    """
    if tail not in ("drop", "zero"):
        raise ValueError(f"tail: must be drop or zero, got {tail!r}")
    p = _curve(scores_N).softmax(-1)
    after = torch.roll(p, -1, dims=-1)
    after[..., -1] = p[..., -1] if tail == "drop" else 0.0
    R = (p * (p - after)).sum(-1)
    return float(R) if R.dim() == 0 else R


def monotone_fraction(scores_N: Any) -> Any:
    """The share of neighbouring distances with s[n] > s[n+1]; float or tensor as `resolution`.

    Raises ValueError where there are fewer than two distances.
    """
    scores = _curve(scores_N)
    if scores.shape[-1] < 2:
        raise ValueError("scores_N: needs at least two distances to compare")
    share = (scores[..., :-1] > scores[..., 1:]).double().mean(-1)
    return float(share) if share.dim() == 0 else share


def _curve(scores_N: Any) -> Tensor:
    scores = torch.as_tensor(scores_N, dtype=torch.float64)
    if scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError("scores_N: must have at least one distance")
    if not scores.isfinite().all():
        raise ValueError("scores_N: must be finite; leave masked distances out")
    return scores
