"""The intervals: a wrong quantile or pairing would print false certainty beside every number."""

import math

import pytest

from zoo.report.stats import difference, mean_interval, t_quantile, welch

# Two-sided 95% points of Student's t, as printed in every table of it.
PRINTED = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281}
PRINTED |= {20: 2.0860, 30: 2.0423, 60: 2.0003, 120: 1.9799}


@pytest.mark.parametrize(("freedom", "point"), PRINTED.items())
def test_quantiles_agree_with_the_printed_table(freedom, point):
    assert abs(t_quantile(0.975, freedom) - point) <= 5.1e-5


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995, 0.9999])
def test_quantiles_agree_with_the_closed_forms(p):
    assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-10)
    alpha = 4 * p * (1 - p)
    assert t_quantile(p, 2) == pytest.approx(2 * (p - 0.5) * math.sqrt(2 / alpha), rel=1e-10)
    root = math.cos(math.acos(math.sqrt(alpha)) / 3) / math.sqrt(alpha)
    assert t_quantile(p, 4) == pytest.approx(2 * math.sqrt(root - 1), rel=1e-10)


@pytest.mark.parametrize("freedom", [1.3, 2.5, 216 / 53, 7.7, 40.25])
def test_quantiles_of_fractional_freedom_integrate_the_density(freedom):
    """Welch's degrees of freedom are not whole; here the density is summed by Simpson's rule."""
    t = t_quantile(0.975, freedom)
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    steps = 20_000
    width = t / steps
    weights = [1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1)]
    density = [(1 + (i * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps + 1)]
    area = scale * width / 3 * math.fsum(w * d for w, d in zip(weights, density))
    assert area == pytest.approx(0.475, abs=1e-11)


def test_quantiles_are_odd_and_approach_the_normal():
    assert t_quantile(0.1, 3) == -t_quantile(0.9, 3)
    assert t_quantile(0.5, 3) == 0.0
    assert t_quantile(0.975, 1e6) == pytest.approx(1.959963985, abs=3e-6)


@pytest.mark.parametrize(("p", "freedom"), [(0.0, 3), (1.0, 3), (0.9, 0), (0.9, math.inf)])
def test_impossible_arguments_are_named(p, freedom):
    with pytest.raises(ValueError, match=r"p must|freedom must"):
        t_quantile(p, freedom)


def test_mean_interval_by_hand():
    """1, 2, 3: mean 2, s = 1, so 2 ± 4.3027/√3."""
    result = mean_interval([1.0, 2.0, 3.0])
    assert (result.mean, result.n) == (2.0, 3)
    assert result.half == pytest.approx(4.302652730 / math.sqrt(3), rel=1e-9)


def test_one_value_has_no_interval_and_equal_values_an_empty_one():
    assert mean_interval([0.1]).half is None
    assert not mean_interval([0.1]).excludes_zero
    constant = mean_interval([0.1, 0.1, 0.1])
    assert (constant.mean, constant.half) == (0.1, 0.0)


def test_paired_difference_by_hand():
    """Seeds vary a lot, the difference hardly: pairing sees it, the unpaired interval cannot."""
    a = {"0": 1.0, "1": 5.0, "2": 9.0}
    b = {"0": 2.0, "1": 6.5, "2": 9.5}
    paired = difference(a, b)
    assert paired is not None and paired.paired and paired.n == 3
    assert paired.mean == pytest.approx(-1.0)
    assert paired.half == pytest.approx(4.302652730 * 0.5 / math.sqrt(3), rel=1e-9)
    assert not paired.excludes_zero
    closer = difference(a, {"0": 2.0, "1": 6.1, "2": 9.9})
    unpaired = welch(list(a.values()), [2.0, 6.1, 9.9])
    assert closer is not None and closer.excludes_zero and not unpaired.excludes_zero


def test_pairs_are_the_seeds_that_both_have():
    result = difference({"0": 1.0, "1": 2.0, "2": 99.0}, {"1": 4.0, "0": 2.0})
    assert result is not None and result.paired and (result.mean, result.n) == (-1.5, 2)


def test_welch_by_hand():
    """1, 2, 3 against 2, 4, 6, 8: u = 1/3, v = 5/3, ν = 4/((1/9)/2 + (25/9)/3) = 216/53."""
    result = difference({"a": 1.0, "b": 2.0, "c": 3.0}, {"d": 2.0, "e": 4.0, "f": 6.0, "g": 8.0})
    assert result is not None and not result.paired and result.n == 3
    assert result.mean == pytest.approx(-3.0)
    assert result.half == pytest.approx(t_quantile(0.975, 216 / 53) * math.sqrt(2.0), rel=1e-12)


def test_single_seeds_give_a_difference_without_an_interval():
    for other in ({"0": 1.0}, {"1": 1.0}, {"1": 1.0, "2": 2.0}):
        result = difference({"0": 3.0}, other)
        assert result is not None and result.half is None and not result.excludes_zero
    assert difference({}, {"0": 1.0}) is None
