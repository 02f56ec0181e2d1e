"""Attention resolution and the theoretical curves, to every digit of the published and derived values."""

import math

import pytest
import torch

from tasks.extrapolation import monotone_fraction, resolution
from tasks.extrapolation.scores import scheme_curve
from zoo.positions.alibi import ALiBi
from zoo.positions.kerple import KerpleLog
from zoo.positions.learned import Learned
from zoo.positions.none import NoPosition
from zoo.positions.rope import RoPE
from zoo.positions.sinusoidal import Sinusoidal
from zoo.positions.xpos import XPos

HEAD = {"num_heads": 1, "head_dim": 64, "width": 64, "context_length": 1024}


def test_hand_made_curve():
    """s = log(4, 3, 2, 1): the value that anyone can check on paper."""
    curve = torch.tensor([4, 3, 2, 1], dtype=torch.float64).log()
    assert resolution(curve, tail="drop") == pytest.approx(0.09, abs=1e-12)
    assert resolution(curve, tail="zero") == pytest.approx(0.10, abs=1e-12)
    assert resolution([math.log(x) for x in (4, 3, 2, 1)]) == pytest.approx(0.09, abs=1e-12)


@pytest.mark.parametrize(
    ("slope", "printed", "unit"), [(1 / 2, 0.0963680, 1e-7), (1 / 256, 7.614e-6, 1e-9)]
)
def test_linear_bias_of_infinite_length(slope, printed, unit):
    """ALiBi alone: (1 - q)^2 / (1 + q); both tails agree where the tail has died out."""
    curve = -slope * torch.arange(20000, dtype=torch.float64)
    q = math.exp(-slope)
    for tail in ("drop", "zero"):
        R = resolution(curve, tail=tail)
        assert abs(R - (1 - q) ** 2 / (1 + q)) < 1e-10 * R
        assert abs(R - printed) < unit


@pytest.mark.parametrize("N", [1, 2, 7, 1000])
def test_uniform_attention_resolves_nothing(N):
    assert resolution(torch.full((N,), 3.7)) == 0.0
    assert resolution(torch.full((N,), 3.7), tail="zero") == pytest.approx(1 / N**2, rel=1e-12)


def test_bounds_shift_and_the_identity_of_the_tails():
    """What makes R comparable between models: no unit, no offset, and never above 1."""
    draw = torch.Generator().manual_seed(0)
    curves = 3 * torch.randn(200, 40, generator=draw, dtype=torch.float64)
    dropped, zero = resolution(curves), resolution(curves, tail="zero")
    p = curves.softmax(-1)
    steps = torch.cat((p[:, :-1] - p[:, 1:], p[:, -1:]), dim=1)
    torch.testing.assert_close(zero, (p[:, 0] ** 2 + (steps**2).sum(-1)) / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(dropped, zero - p[:, -1] ** 2, rtol=1e-12, atol=1e-15)
    assert (zero >= 0).all() and (zero <= p.square().sum(-1) + 1e-15).all()
    torch.testing.assert_close(resolution(curves + 100.0), dropped, rtol=1e-11, atol=1e-15)
    assert dropped.shape == (200,)


def test_monotone_fraction_tells_decay_from_oscillation():
    n = torch.arange(50.0)
    assert monotone_fraction(-n) == 1.0 and monotone_fraction(n) == 0.0
    assert monotone_fraction([3.0, 2.0, 2.5, 1.0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [0.0, -math.inf]])
def test_what_is_no_curve_is_refused(bad):
    with pytest.raises(ValueError, match="scores_N"):
        resolution(bad)
    with pytest.raises(ValueError, match="tail: must be"):
        resolution([1.0, 0.0], tail="keep")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scheme", "whole", "scaled"),
    [
        (RoPE(**HEAD), "0.41164", ["1.2844e-04", "5.855e-05", "2.725e-05"]),
        (XPos(scale_base=512, **HEAD), "0.42069", ["1.4837e-04", "6.767e-05", "2.954e-05"]),
    ],
    ids=["rope", "xpos"],
)
def test_resolution_of_the_theoretical_curve(scheme, whole, scaled):
    for N, printed in zip((1024, 2048, 4096), scaled, strict=True):
        assert f"{resolution(scheme_curve(scheme, N, scaled=False)[0]):.5f}" == whole
        digits = len(printed.split("e")[0]) - 2
        assert f"{resolution(scheme_curve(scheme, N)[0]):.{digits}e}" == printed


def test_theoretical_curve_point_by_point():
    """RoPE's curve comes back up (g[512] < g[1024]), xPos's falls: the paper's whole argument."""
    rope = scheme_curve(RoPE(**HEAD), 4097, scaled=False)[0]
    xpos = scheme_curve(XPos(scale_base=512, **HEAD), 4097, scaled=False)[0]
    assert [round(float(g), 4) for g in rope[:5]] == [32, 30.9168, 28.3039, 25.5870, 23.9344]
    assert [round(float(g), 4) for g in xpos[:5]] == [32, 30.8869, 28.2557, 25.5324, 23.8743]
    grid = [64, 256, 512, 1024, 2048, 4096]
    assert [round(float(g), 3) for g in rope[grid]] == [13.906, 11.318, 5.932, 8.414, -1.270, 0.112]
    assert [round(float(g), 3) for g in xpos[grid]] == [13.685, 10.359, 6.292, 5.817, 2.456, 1.128]
    assert monotone_fraction(xpos[grid]) == 1.0 > monotone_fraction(rope[grid])


def test_curves_of_the_other_schemes_follow_their_formulas():
    """A bias's curve is the bias; input vectors give their inner product; no positions, none."""
    two = {"num_heads": 2, "head_dim": 8, "width": 16, "context_length": 32}
    n = torch.arange(32, dtype=torch.float64)
    rest = 4 / 8**0.5  # what alike contents score without any position

    torch.testing.assert_close(
        scheme_curve(NoPosition(**two), 32), torch.full((1, 32), rest).double()
    )
    expected = rest - torch.tensor([2.0**-4, 2.0**-8], dtype=torch.float64)[:, None] * n
    torch.testing.assert_close(scheme_curve(ALiBi(**two), 32), expected)
    kerple = KerpleLog(**two)
    log = -kerple.r1_H.double()[:, None] * torch.log1p(kerple.r2_H.double()[:, None] * n)
    torch.testing.assert_close(scheme_curve(kerple, 32), rest + log.detach(), rtol=1e-5, atol=1e-6)

    waves = 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    cosines = torch.cos(n[:, None] * waves).sum(-1)
    found = scheme_curve(Sinusoidal(scale=0.5, **two), 32, scaled=False)[0]
    torch.testing.assert_close(found, 4 + 0.25 * cosines, rtol=1e-5, atol=1e-5)

    learned = Learned(**two)
    P = learned.table.weight.detach().double()
    mean = torch.stack([(P[k:] * P[: 32 - k]).sum(-1).mean() for k in range(32)])
    torch.testing.assert_close(scheme_curve(learned, 32, scaled=False)[0], 4 + mean)
