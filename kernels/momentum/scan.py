"""The recurrence y_{t+1} = a_t y_t + g x_t in torch, on any device, in about six passes over x.

T is cut into n chunks of C. All chunks run their C steps side by side from zero, one vector operation
a step. What leaves each chunk is carried to the next by the same recurrence over n, with the product
of the chunk's a; then every row gets the carry times the a's before it. All factors are products of
a's, so nothing overflows where |a| <= 1. Work O(T D): no (T, T) or (C, C) matrix, no serial loop.

Shapes: x, out (B, H, T, D); a (1 or B, 1 or H, 1 or T, 1); gain (1 or H, 1, 1); start, y_T (B, H, D).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

CHUNK = 16


def scan(
    x: Tensor, a: Tensor, gain: Tensor | None, start: Tensor, out: Tensor, *, reverse: bool = False
) -> Tensor:
    """Writes y_0 .. y_{T-1} to out and returns y_T; reverse: time runs from T - 1 down to 0."""
    T = x.shape[2]
    C = min(CHUNK, T)
    n, rest = T // C, T % C
    if rest:
        parts = [(0, T - rest), (T - rest, rest)]
        for begin, length in reversed(parts) if reverse else parts:
            x_part, out_part = x.narrow(2, begin, length), out.narrow(2, begin, length)
            a_part = a.narrow(2, begin, length) if a.shape[2] > 1 else a
            start = scan(x_part, a_part, gain, start, out_part, reverse=reverse)
        return start
    x, out = _fold(x, n), _fold(out, n)  # (B, n, H, C, D)
    a = _fold(a, n) if a.shape[2] > 1 else a.unsqueeze(1)
    ends = _local(x, a, out, reverse)  # (B, n, H, D), what leaves each chunk
    if gain is not None:
        ends.mul_(gain.squeeze(-1))
        out.mul_(gain)
    powers = a.expand(*a.shape[:3], C, 1)
    powers = powers.flip(3).cumprod(3).flip(3) if reverse else powers.cumprod(3)
    through = powers.select(3, 0 if reverse else -1)  # (b, n or 1, h, 1)
    if n == 1:
        carry = start.unsqueeze(1)
        last = ends.squeeze(1).addcmul_(through.squeeze(1), start)
    else:
        carry = torch.empty_like(ends)
        turned = [z.transpose(1, 2) for z in (ends, through, carry)]
        last = scan(turned[0], turned[1], None, start, turned[2], reverse=reverse)
    before = torch.nn.functional.pad(
        powers[..., 1:, :] if reverse else powers[..., :-1, :],
        (0, 0, 0, 1) if reverse else (0, 0, 1, 0),
        value=1.0,
    )
    out.addcmul_(before, carry.unsqueeze(3))
    return last


def _local(x: Tensor, a: Tensor, out: Tensor, reverse: bool) -> Tensor:
    """The recurrence over the last axis but one from zero and with g = 1; returns what leaves it."""
    xs, ys = x.unbind(-2), out.unbind(-2)
    factors = a.unbind(-2) if a.shape[-2] > 1 else (a.squeeze(-2),) * len(xs)
    order = range(len(xs) - 1, -1, -1) if reverse else range(len(xs))
    ys[order[0]].zero_()
    for t, following in pairwise(order):
        torch.addcmul(xs[t], ys[t], factors[t], out=ys[following])
    t = order[-1]
    return torch.addcmul(xs[t], ys[t], factors[t])


def _fold(z: Tensor, n: int) -> Tensor:
    return z.unflatten(2, (n, -1)).transpose(1, 2)
