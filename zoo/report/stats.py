"""Intervals for a handful of seeds, exact for normal errors, in plain Python.

    mean of n:    x̄ ± t(n-1) · s / √n                     s² = Σ (x - x̄)² / (n - 1)
    paired:       the same, of the differences a_seed - b_seed
    unpaired:     (ā - b̄) ± t(ν) · √(u + v)               u = s_a²/n_a, v = s_b²/n_b
                  ν = (u + v)² / (u²/(n_a-1) + v²/(n_b-1))     (Welch 1947)

t(ν) is the 97.5% quantile of Student's distribution. Its upper tail is half a regularised
incomplete beta function, P(T > t) = ½ I_{ν/(ν+t²)}(ν/2, ½) (Abramowitz & Stegun 26.7.1), summed as
the continued fraction 26.5.8 and inverted by bisection; ν need not be whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """`mean ± half` from `n` values; `half` is None where n < 2 allows no interval."""

    mean: float
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval exists and 0 lies outside it."""
        return self.half is not None and abs(self.mean) > self.half


@dataclass(frozen=True)
class Difference(Estimate):
    """`a - b`; `n` counts the pairs when `paired`, and the smaller sample otherwise."""

    paired: bool


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean and 95% interval of finite `values` (at least one)."""
    if not values:
        raise ValueError("mean_interval needs at least one value")
    mean, variance = _moments(values)
    return Estimate(mean, _half(variance, len(values) - 1), len(values))


def difference(a: Mapping, b: Mapping) -> Difference | None:
    """Interval of `a - b` for values by seed: paired over the seeds that both have when these are
    two or more, else unpaired (Welch). None where one side is empty."""
    if not a or not b:
        return None
    shared = [seed for seed in a if seed in b]
    if len(shared) >= 2 or (shared and len(a) == len(b) == 1):
        pairs = mean_interval([a[seed] - b[seed] for seed in shared])
        return Difference(pairs.mean, pairs.half, pairs.n, paired=True)
    return welch(list(a.values()), list(b.values()))


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Interval of mean(a) - mean(b) for independent samples of unequal variance."""
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    n = min(len(a), len(b))
    if var_a is None or var_b is None:
        return Difference(mean_a - mean_b, None, n, paired=False)
    total = var_a + var_b
    if total == 0.0:
        return Difference(mean_a - mean_b, 0.0, n, paired=False)
    # In shares of the total, so that squares of tiny variances do not underflow.
    share_a, share_b = var_a / total, var_b / total
    freedom = 1.0 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    return Difference(mean_a - mean_b, _half(total, freedom), n, paired=False)


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the variance of that mean (None for one value)."""
    n = len(values)
    if min(values) == max(values):  # exact: a constant must not get an interval from rounding
        return float(values[0]), (0.0 if n > 1 else None)
    mean = math.fsum(values) / n
    return mean, math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n


def _half(variance: float | None, freedom: float) -> float | None:
    if variance is None:
        return None
    return t_quantile(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(variance)


@lru_cache(maxsize=4096)
def t_quantile(p: float, freedom: float) -> float:
    """Quantile of Student's t: P(T <= t) = `p`, 0 < p < 1, for any real `freedom` > 0."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly between 0 and 1, not {p}")
    if not 0.0 < freedom < math.inf:
        raise ValueError(f"freedom must be positive and finite, not {freedom}")
    if p < 0.5:
        return -t_quantile(1.0 - p, freedom)
    if p == 0.5:
        return 0.0
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1.0 - p:
        low, high = high, 2.0 * high
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:  # neighbours in floating point
            return middle
        low, high = (middle, high) if t_tail(middle, freedom) > 1.0 - p else (low, middle)


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) for t >= 0."""
    if t == 0.0:
        return 0.5
    square = t * t
    return 0.5 * incomplete_beta(
        freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square)
    )


def incomplete_beta(a: float, b: float, x: float, complement: float) -> float:
    """Regularised I_x(a, b); `complement` is 1 - x, given apart to keep its digits."""
    if x <= 0.0 or complement <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log(complement)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, complement) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 1/(1+ d1/(1+ d2/(1+ …))) by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"incomplete beta did not converge for a={a}, b={b}, x={x}")
