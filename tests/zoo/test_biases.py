"""Additive biases: ALiBi, T5, KERPLE, Sandwich and FIRE, value by value."""

import math

import pytest
import torch

from tests.zoo import oracle, schemes
from tests.zoo.schemes import H
from zoo.positions.alibi import ALiBi, alibi_slopes
from zoo.positions.fire import FIRE
from zoo.positions.kerple import KerpleLog, KerplePower
from zoo.positions.sandwich import Sandwich
from zoo.positions.t5 import T5Bias


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_slopes(heads: int) -> None:
    """The published slopes, also for the 12 and 20 heads of GPT-2's shapes."""
    expected = [oracle.alibi_slope(h, heads) for h in range(1, heads + 1)]
    assert alibi_slopes(heads) == pytest.approx(expected, rel=1e-15)
    assert ALiBi(**schemes.shape(heads=heads)).slopes().tolist() == pytest.approx(
        expected, rel=1e-7
    )


def test_alibi_slopes_by_hand() -> None:
    """Eight heads: 1/2 to 1/256, as the paper prints them; twelve add four from sixteen."""
    assert alibi_slopes(8) == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


@pytest.mark.parametrize(
    "buckets, farthest", [(32, 128), (8, 64), (8, 32), (16, 1024), (2, 9), (32, 17)]
)
def test_t5_buckets(buckets: int, farthest: int) -> None:
    """A bucket's edge one token off, where the logarithm lands on a whole number."""
    position = T5Bias(**schemes.shape(), num_buckets=buckets, max_distance=farthest)
    r = torch.arange(2 * farthest)
    expected = [oracle.t5_bucket(n, buckets, farthest) for n in r.tolist()]
    assert position.bucket(r).tolist() == expected


def test_t5_buckets_by_hand() -> None:
    """The fact sheet's line: exact below 16, logarithmic to 128, one bucket beyond."""
    found = T5Bias(**schemes.shape()).bucket(
        torch.tensor([0, 1, 15, 16, 18, 19, 32, 127, 128, 99999])
    )
    assert found.tolist() == [0, 1, 15, 16, 16, 17, 21, 31, 31, 31]


@pytest.mark.parametrize("cls, top", [(KerpleLog, math.inf), (KerplePower, 2.0)])
def test_kerple_stays_a_kernel(cls, top: float) -> None:
    """Parameters pushed out of range by training must still give a finite, falling bias."""
    for value in (-50.0, -1.0, 0.0, 0.5, 3.0, 50.0):
        position = cls(**schemes.shape())
        with torch.no_grad():
            position.r1_H.fill_(value)
            position.r2_H.fill_(value)
        r1, r2 = position.positive()
        assert (r1 > 0).all() and (r2 > 0).all() and (r2 <= top).all()
        row = position.bias(1, 40)[:, 0].flip(-1)
        assert row.isfinite().all()
        assert (row[:, 0] == 0).all()
        assert (row.diff() <= 0).all()


def test_kerple_starts_alive() -> None:
    """At r2 = 0 the bias and its gradient vanish: the start must be away from it."""
    for cls in (KerpleLog, KerplePower):
        torch.manual_seed(0)
        position = cls(**schemes.shape())
        position.reset_parameters()
        position.bias(9, 9).square().sum().backward()
        for parameter in position.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs() > 0).all()


@pytest.mark.parametrize("cls", [KerpleLog, KerplePower])
def test_kerple_parameters_come_back(cls) -> None:
    """A parameter that one step pushes past its bound must not be stuck there for good."""
    position = cls(**schemes.shape())
    with torch.no_grad():
        position.r1_H.fill_(-0.02)
    position.bias(9, 9).sum().backward()
    assert (position.r1_H.grad.abs() > 0).all()


def test_kerple_power_by_its_formula() -> None:
    """-r1 r^r2 from the module's own parameters, nothing at distance 0."""
    position = schemes.new_position("kerple power")
    r1, r2 = (x.detach().flatten().tolist() for x in position.positive())
    row = position.bias(1, 30).detach()[:, 0].flip(-1)
    for h in range(H):
        for r in range(30):
            assert float(row[h, r]) == pytest.approx(
                oracle.kerple_power(r, r1[h], r2[h]), rel=1e-12
            )


@pytest.mark.parametrize("dim", [2, 64, 128])
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_sandwich(dim: int, heads: int) -> None:
    """Sandwich's sum over its own width, compressed head by head."""
    row = Sandwich(**schemes.shape(heads=heads), dim=dim).double().bias(1, 50)[:, 0].flip(-1)
    for h in range(heads):
        for r in range(50):
            expected = oracle.sandwich(r, h + 1, heads, dim)
            assert float(row[h, r]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_fire_positions_are_the_sequences_own() -> None:
    """Tokens let go of still count: query i of the text is normalised by psi(i)."""
    position = schemes.new_position("fire")
    whole = position.bias(30, 30)
    part = position.bias(4, 11, start=19)
    rows_, columns = torch.arange(26, 30)[:, None], torch.arange(19, 30)
    seen = columns <= rows_
    assert oracle.closeness(part[:, seen], whole[:, 26:, 19:][:, seen]) <= 1e-12


def test_fire_threshold_and_c_stay_usable() -> None:
    """c or the threshold driven below zero by training must not give NaN."""
    for c, threshold in ((-1.0, 5.0), (0.0, 5.0), (0.1, -3.0), (0.1, 0.0), (1e-6, 1e-6)):
        position = FIRE(**schemes.shape())
        with torch.no_grad():
            position.c.fill_(c)
            position.threshold.fill_(threshold)
        bias = position.bias(12, 12)
        assert bias.isfinite().all(), (c, threshold)
        bias.square().sum().backward()
        for p in position.parameters():
            assert p.grad is None or p.grad.isfinite().all(), (c, threshold)
