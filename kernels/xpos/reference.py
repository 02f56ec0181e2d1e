"""The specification of rotary positions with decay (xPos; Sun et al. 2022, equations 10-12).

Pair i of a head of size D as a complex number x_i, at position n, with base b, scale base S and
centre c (one constant for q and k: it cancels in every score):

    theta_i = b^(-2i / D)        zeta_i = (i / (D / 2) + 0.4) / 1.4
    q'_i = q_i e^(j theta_i n) zeta_i^((n - c) / S)
    k'_i = k_i e^(j theta_i n) zeta_i^(-(n - c) / S)
    score(m, n) = sum_i Re(q'_i conj(k'_i)) = sum_i zeta_i^((m - n) / S) Re(q_i conj(k_i) e^(j theta_i (m - n)))

Without a scale base, zeta = 1: plain rotary positions (RoPE; Su et al. 2021). Layouts: "interleaved",
pair i = elements (2i, 2i + 1); "half", pair i = elements (i, i + D / 2).

Shapes: positions (T,), factors (T, D / 2) complex, x (B, H, T, D).
"""

from __future__ import annotations

import torch
from torch import Tensor

GAMMA = 0.4  # fixed in the authors' code; the paper gives no value


def factors(
    positions_T: Tensor,
    head_dim: int,
    *,
    base: float = 10000.0,
    scale_base: float | None = None,
    centre: float = 0.0,
    inverse: bool = False,
) -> Tensor:
    """e^(j theta n) zeta^((n - c) / S), complex128 (T, D / 2); inverse: the decay inverted, for keys."""
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head size, got {head_dim}")
    n = positions_T.to(torch.float64)[:, None]
    i = torch.arange(head_dim // 2, dtype=torch.float64, device=n.device)
    theta = float(base) ** (-2 * i / head_dim)
    if scale_base is None:
        decay = torch.ones_like(n * theta)
    else:
        zeta = (i / (head_dim / 2) + GAMMA) / (1 + GAMMA)
        decay = zeta ** ((n - centre) / scale_base * (-1 if inverse else 1))
    return torch.polar(decay, n * theta)


def rotate(x_BHTD: Tensor, factors: Tensor, layout: str = "interleaved") -> Tensor:
    """x with each pair multiplied by its factor, in factors' precision; the result in x's dtype."""
    half = x_BHTD.shape[-1] // 2
    if layout == "interleaved":
        a, b = x_BHTD[..., 0::2], x_BHTD[..., 1::2]
    elif layout == "half":
        a, b = x_BHTD[..., :half], x_BHTD[..., half:]
    else:
        raise ValueError(f'layout must be "interleaved" or "half", got {layout!r}')
    real, imaginary = a * factors.real - b * factors.imag, b * factors.real + a * factors.imag
    if layout == "interleaved":
        out = torch.stack([real, imaginary], dim=-1).flatten(-2)
    else:
        out = torch.cat([real, imaginary], dim=-1)
    return out.to(x_BHTD.dtype)


def relative_scores(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    *,
    scale_base: float | None = 512,
    base: float = 10000.0,
    layout: str = "interleaved",
) -> Tensor:
    """(B, H, T, S) unscaled scores from distances alone, 0 above the diagonal: exact at any length.

    The decay zeta^((m - n) / S) is at most 1 for m >= n, so nothing grows. O(T S D) memory.
    """
    T, S, D = q_BHTD.shape[-2], k_BHSD.shape[-2], q_BHTD.shape[-1]
    distance = torch.arange(S - T, S)[:, None] - torch.arange(S)
    twist = factors(distance.clamp(min=0).flatten(), D, base=base, scale_base=scale_base)
    q, k = (pairs(x.double(), layout) for x in (q_BHTD, k_BHSD))
    terms = q[..., :, None, :] * k[..., None, :, :].conj() * twist.unflatten(0, (T, S))
    return terms.real.sum(-1).masked_fill(distance < 0, 0.0)


def pairs(x: Tensor, layout: str) -> Tensor:
    """The pairs of the last dimension as complex numbers."""
    if layout == "interleaved":
        return torch.complex(x[..., 0::2], x[..., 1::2])
    half = x.shape[-1] // 2
    return torch.complex(x[..., :half], x[..., half:])
