"""What the papers' formulas give, by explicit loops in float64: nothing here calls `zoo` or `kernels`.

    i query, j key, r = i - j distance, h = 1..H head, N training length, S xPos scale base

Shapes: q, k (B, H, T, D) and scores (B, H, T, T), of which only the visible pairs mean anything.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# ---- the formulas -------------------------------------------------------------------------------


def theta(i: float, d: int, base: float = 10000.0) -> float:
    return base ** (-2 * i / d)


def zeta(i: int, d: int) -> float:
    return (i / (d / 2) + 0.4) / 1.4


def alibi_slope(h: int, heads: int) -> float:
    """Press 2021: the row of the lower power of two, then every second slope of the next."""
    lower = 1
    while 2 * lower <= heads:
        lower *= 2
    if h <= lower:
        return 2.0 ** (-8 * h / lower)
    return 2.0 ** (-8 * (2 * (h - lower) - 1) / (2 * lower))


def t5_bucket(r: int, buckets: int = 32, farthest: int = 128) -> int:
    """In whole numbers: the largest m with r/e >= (farthest/e)^(m/e), e exact buckets."""
    exact = buckets // 2
    if r < exact:
        return r
    m = 0
    while m < buckets - exact - 1 and (
        r ** (buckets - exact) * exact ** (m + 1)
        >= exact ** (buckets - exact) * farthest ** (m + 1)
    ):
        m += 1
    return exact + m


def kerple_log(r: int, r1: float, r2: float) -> float:
    return -r1 * math.log(1 + r2 * r)


def kerple_power(r: int, r1: float, r2: float) -> float:
    return -r1 * float(r) ** r2 if r else 0.0


def sandwich(r: int, h: int, heads: int, dim: int) -> float:
    total = sum(math.cos(r * 10000.0 ** (-2 * m / dim)) for m in range(1, dim // 2 + 1))
    return (total - dim / 2) / (8 * h / heads)


def fire(r: int, i: int, c: float, threshold: float, mlp: list[list]) -> list[float]:
    """f(psi(r) / psi(max(i, threshold))), one number a head; mlp: w1, b1, w2, b2."""
    w1, b1, w2, b2 = mlp
    x = math.log(c * r + 1) / math.log(c * max(i, threshold) + 1)
    hidden = [max(0.0, w[0] * x + b) for w, b in zip(w1, b1)]
    return [sum(a * y for a, y in zip(row, hidden)) + b for row, b in zip(w2, b2)]


def sinusoid(p: int, channel: int, width: int) -> float:
    w = 10000.0 ** (-2 * (channel // 2) / width)
    return math.sin(p * w) if channel % 2 == 0 else math.cos(p * w)


def ntk(i: int, d: int, stretch: float, base: float = 10000.0) -> float:
    return theta(i, d, base * stretch ** (d / (d - 2)))


def yarn(i: int, d: int, stretch: float, trained: int, base: float = 10000.0) -> float:
    """The ramp between whole pairs, floor and ceiling, as in the authors' code."""

    def where(turns: float) -> float:
        return d * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(base))

    low, high = max(math.floor(where(32)), 0), min(math.ceil(where(1)), d - 1)
    ramp = min(1.0, max(0.0, (i - low) / max(high - low, 1e-3)))
    return theta(i, d, base) * (1 - ramp) + theta(i, d, base) / stretch * ramp


# ---- scores -------------------------------------------------------------------------------------


def pairs(x: Tensor, layout: str) -> Tensor:
    """The channels of the last axis as complex pairs."""
    half = x.shape[-1] // 2
    if layout == "interleaved":
        return torch.complex(x[..., 0::2].contiguous(), x[..., 1::2].contiguous())
    return torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous())


def distance(T: int) -> Tensor:
    """(T, T), 0 where the key comes later: nobody looks there."""
    i = torch.arange(T)
    return (i[:, None] - i).clamp(min=0)


def plain(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])


def rotary(
    q: Tensor,
    k: Tensor,
    thetas: list[float],
    layout: str = "interleaved",
    scale_base: float | None = None,
) -> Tensor:
    """The relative form: sum_i Re(q_i conj(k_i) e^(j theta_i r)) zeta_i^(r/S) / sqrt(D)."""
    T, d = q.shape[2], q.shape[3]
    factor_of = torch.zeros(T, d // 2, dtype=torch.complex128)
    for r in range(T):
        for p, angle in enumerate(thetas):
            decay = 1.0 if scale_base is None else zeta(p, d) ** (r / scale_base)
            factor_of[r, p] = complex(decay * math.cos(r * angle), decay * math.sin(r * angle))
    factor = factor_of[distance(T)]
    a, b = pairs(q, layout), pairs(k, layout).conj()
    return torch.einsum("bhip,bhjp,ijp->bhij", a, b, factor).real / math.sqrt(d)


def biased(q: Tensor, k: Tensor, bias: Callable[[int], list[float]]) -> Tensor:
    """q k / sqrt(D) + bias(r), a list over the heads."""
    T = q.shape[2]
    rows = torch.tensor([bias(r) for r in range(T)], dtype=torch.float64)
    return plain(q, k) + rows.T[:, distance(T)]


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


# ---- parts of a decoder --------------------------------------------------------------------------


WINDOW, BLOCK = 11, 5


def visible(kind: str, T: int, size: int | None = None) -> Tensor:
    """The masks, pair by pair: `size` is the window or the block."""
    see = torch.zeros(T, T, dtype=torch.bool)
    for p in range(T):
        for t in range(p + 1):
            if kind == "causal":
                see[p, t] = True
            elif kind == "window":
                see[p, t] = p - t < (size or WINDOW)
            else:
                block = size or BLOCK
                see[p, t] = t // block >= p // block - 1
    return see


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
