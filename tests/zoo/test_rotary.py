"""RoPE, xPos and their scalings: hand values, layouts, window-local positions, precision."""

import math

import pytest
import torch

from tests.zoo import oracle, schemes
from tests.zoo.schemes import SCHEMES, D, H, N
from zoo.positions.rope import RoPE
from zoo.positions.scaling import NTK, DynamicNTK, Linear, YaRN
from zoo.positions.xpos import XPos


def test_xpos_by_hand() -> None:
    """d=4, L=4, n=3, x=(1,0,0,1), S=512: the values of the fact sheet."""
    xpos = XPos(**schemes.shape(4), scale_base=512)
    x = torch.tensor([1, 1j], dtype=torch.complex128)
    at = torch.tensor([3])
    query = torch.view_as_real(x * torch.view_as_complex(xpos.factors(at, 4, 2.0))[0]).flatten()
    key = torch.view_as_real(
        x * torch.view_as_complex(xpos.factors(at, 4, 2.0, inverse=True))[0]
    ).flatten()
    assert query.tolist() == pytest.approx([-0.987573, 0.140775, -0.029970, 0.998688], abs=5.1e-7)
    assert key.tolist() == pytest.approx([-0.992418, 0.141466, -0.030021, 1.000413], abs=5.1e-7)


def test_zeta_of_eight_channels() -> None:
    """The decays of the paper's pairs, whose wrong grid would be RetNet's."""
    xpos = XPos(**schemes.shape(8), scale_base=1.0)
    decay = torch.view_as_complex(xpos.factors(torch.tensor([1]), 2, 0.0)).abs()[0]
    assert decay.tolist() == pytest.approx([0.285714, 0.464286, 0.642857, 0.821429], abs=5.1e-7)
    for d, last in ((16, 0.910714), (24, 0.940476), (64, 0.977679), (128, 0.988839)):
        factors = XPos(**schemes.shape(d), scale_base=1.0).factors(torch.tensor([1]), 2, 0.0)
        found = torch.view_as_complex(factors).abs()[0]
        assert float(found[-1]) == pytest.approx(last, abs=5.1e-7)
        assert float(found[0]) == pytest.approx(2 / 7, rel=1e-14)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_norm_of_a_turned_pair_is_its_decay(layout: str) -> None:
    """Decay on the wrong channels (it shipped elsewhere): each pair's norm is zeta^((n-c)/S)."""
    L, d, S = 9, 12, 5.0
    xpos = XPos(**schemes.shape(d), scale_base=S, layout=layout)
    ones = torch.zeros(1, H, L, d, dtype=torch.float64)
    ones[..., slice(0, None, 2) if layout == "interleaved" else slice(0, d // 2)] = 1
    q, k, _ = xpos.rotate(ones, ones)
    up, down = oracle.pairs(q, layout).abs()[0, 0], oracle.pairs(k, layout).abs()[0, 0]
    assert (up * down - 1).abs().max() <= 1e-12
    for i in range(d // 2):
        for n in range(1, L):
            assert float(up[n, i] / up[n - 1, i]) == pytest.approx(
                oracle.zeta(i, d) ** (1 / S), rel=1e-12
            )


def test_centre_cancels() -> None:
    """A centre that leaks into scores would make them depend on the length of the text."""
    xpos = XPos(**schemes.shape(8), scale_base=6.0)
    at = torch.arange(30)
    products = [
        xpos.factors(at, 30, c)[:, None] * xpos.factors(at, 30, c, inverse=True).conj()
        for c in (0.0, 15.0, 7.5)
    ]
    assert (products[0] - products[1]).abs().max() <= 1e-12 * products[0].abs().max()
    assert (products[0] - products[2]).abs().max() <= 1e-12 * products[0].abs().max()


G_XPOS = {0: 32, 1: 30.8869, 2: 28.2557, 3: 25.5324, 4: 23.8743, 64: 13.685, 256: 10.359}
G_XPOS |= {512: 6.292, 1024: 5.817, 2048: 2.456, 4096: 1.128}
G_ROPE = {0: 32, 1: 30.9168, 2: 28.3039, 3: 25.5870, 4: 23.9344, 64: 13.906, 256: 11.318}
G_ROPE |= {512: 5.932, 1024: 8.414, 2048: -1.270, 4096: 0.112}


@pytest.mark.parametrize("cls, curve", [(XPos, G_XPOS), (RoPE, G_ROPE)])
def test_expected_score_curve(cls, curve: dict[int, float]) -> None:
    """Figure 1 of the LeX paper: g[n] for d = 64, S = 512, at distances to 4096."""
    options = {"scale_base": 512.0} if cls is XPos else {}
    position = cls(**schemes.shape(64, 1, 1024), **options)
    one = torch.zeros(1, 1, 4097, 64, dtype=torch.float64)
    one[..., 0::2] = 1
    q, k, _ = position.rotate(one[:, :, -1:], one)
    g = (k[0, 0] @ q[0, 0, 0]).flip(0)
    for n, value in curve.items():
        assert float(g[n]) == pytest.approx(value, abs=0.00051 if n >= 64 else 0.000051)


def test_xpos_without_decay_is_rope() -> None:
    """S to infinity: the ablation that separates decay from rotation."""
    q, k = schemes.rows(H, 33, D, 1), schemes.rows(H, 33, D, 2)
    a, b, _ = XPos(**schemes.shape(), scale_base=1e18).rotate(q, k)
    c, d, _ = RoPE(**schemes.shape()).rotate(q, k)
    assert oracle.closeness(a, c) <= 1e-12
    assert oracle.closeness(b, d) <= 1e-12


@pytest.mark.parametrize("cls", [RoPE, XPos])
@pytest.mark.parametrize("block", [None, 4])
def test_layouts_are_a_permutation_of_channels(cls, block: int | None) -> None:
    """Weights converted between the two layouts must give the same model."""
    q, k = schemes.rows(H, 21, D, 1), schemes.rows(H, 21, D, 2)
    order = torch.cat((torch.arange(0, D, 2), torch.arange(1, D, 2)))
    one = cls(**schemes.shape(), layout="interleaved").rotate(q, k, block=block)
    two = cls(**schemes.shape(), layout="half").rotate(q[..., order], k[..., order], block=block)
    for x, y in zip(one, two):
        if x is None:
            assert y is None
        else:
            assert oracle.closeness(y, x[..., order]) <= 1e-12


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_partial_rotation_leaves_the_rest(fraction: float) -> None:
    """GPT-J and GPT-NeoX weights: only the first channels of a head turn, as a smaller head would."""
    d, turned = 16, round(16 * fraction)
    q, k = schemes.rows(H, 9, d, 1), schemes.rows(H, 9, d, 2)
    a, b, _ = RoPE(**schemes.shape(d), fraction=fraction).rotate(q, k)
    c, e, _ = RoPE(**schemes.shape(turned)).rotate(q[..., :turned], k[..., :turned])
    assert torch.equal(a[..., turned:], q[..., turned:])
    assert torch.equal(b[..., turned:], k[..., turned:])
    assert oracle.closeness(a[..., :turned], c) <= 1e-12
    assert oracle.closeness(b[..., :turned], e) <= 1e-12


def test_dynamic_ntk_is_rope_up_to_the_training_length() -> None:
    """No stretch where none is needed: scores within the training length are the trained ones."""
    q, k = schemes.rows(H, N, D, 1), schemes.rows(H, N, D, 2)
    plain, dynamic = (
        RoPE(**schemes.shape()),
        RoPE(**schemes.shape(), scaling=DynamicNTK(factor=4.0)),
    )
    for x, y in zip(plain.rotate(q, k)[:2], dynamic.rotate(q, k)[:2]):
        assert oracle.closeness(y, x) <= 1e-12


@pytest.mark.parametrize("d, trained", [(64, 2048), (128, 4096), (64, 1024)])
def test_scaled_frequencies(d: int, trained: int) -> None:
    """PI, NTK-aware, dynamic NTK and YaRN at the sizes they were published for."""
    s, L = 8.0, 3 * trained
    theta = torch.tensor([oracle.theta(i, d) for i in range(d // 2)], dtype=torch.float64)
    expected = {
        Linear: lambda i: oracle.theta(i, d) / s,
        NTK: lambda i: oracle.ntk(i, d, s),
        DynamicNTK: lambda i: oracle.ntk(i, d, s * 3 - 7),
        YaRN: lambda i: oracle.yarn(i, d, s, trained),
    }
    for rule, formula in expected.items():
        found = rule(factor=s).frequencies(theta, 10000.0, trained, L)
        ratio = found / torch.tensor([formula(i) for i in range(d // 2)], dtype=torch.float64)
        assert (ratio - 1).abs().max() <= 1e-12, rule.__name__


def test_yarn_sharpens_the_scores() -> None:
    """YaRN's temperature: scores at distance 0 are multiplied by (0.1 ln s + 1)^2 and by no more."""
    q, k = schemes.rows(H, 7, D, 1), schemes.rows(H, 7, D, 2)
    a, b, _ = RoPE(**schemes.shape(), scaling=YaRN(factor=8.0)).rotate(q, k)
    expected = (q * k).sum(-1) * (0.1 * math.log(8) + 1) ** 2
    assert oracle.closeness((a * b).sum(-1), expected) <= 1e-12


@pytest.mark.parametrize("name", ["xpos", "xpos half", "rope"])
@pytest.mark.parametrize("T, S", [(40, 40), (1, 40), (7, 40), (3, 18), (1, 1), (6, 6)])
def test_window_local_scores(name: str, T: int, S: int) -> None:
    """Own queries against their block, previous ones against the block before: the global scores."""
    h = 6
    position = schemes.new_position(name)
    q, k = schemes.rows(H, S, D, 1), schemes.rows(H, S, D, 2)
    expected = SCHEMES[name].scores(position, q, k)[:, :, S - T :] * math.sqrt(D)
    own, key, previous = position.rotate(q[:, :, S - T :], k, block=h)
    for r in range(T):
        t = S - T + r
        for s in range(max(0, (t // h - 1) * h), t + 1):
            query = own if s // h == t // h or previous is None else previous
            found = (query[:, :, r] * key[:, :, s]).sum(-1)
            assert (found - expected[:, :, r, s]).abs().max() <= 1e-12 * expected.abs().max()


# ---- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [RoPE, XPos])
def test_angles_survive_half_precision(cls, dtype: torch.dtype) -> None:
    """A module cast to bf16 must not cast its angles: at position 2000 they would be noise."""
    position = cls(**schemes.shape(8, 2, 4096)).to(dtype)
    q = schemes.rows(2, 2100, 8, 1).to(dtype)
    exact = cls(**schemes.shape(8, 2, 4096)).rotate(q.double(), q.double())
    found = position.rotate(q, q)
    unit = torch.finfo(dtype).eps
    for a, b in zip(found[:2], exact[:2]):
        assert a.dtype == dtype
        norm = oracle.pairs(b, "interleaved").abs().repeat_interleave(2, -1)
        # One rounding of the result, whose size is at most the pair's.
        assert ((a.double() - b).abs() <= unit * norm + 1e-6).all()


def test_float32_scores_at_training_length() -> None:
    """The sheet's bound: float32 scores without 1/sqrt(D) within 1e-3 of exact at L = 1024."""
    d, L = 64, 1024
    for cls, S in ((XPos, 512.0), (RoPE, None)):
        options = {} if S is None else {"scale_base": S}
        position = cls(**schemes.shape(d, 1, L), **options)
        q, k = schemes.rows(1, L, d, 1)[:1], schemes.rows(1, L, d, 2)[:1]
        a, b, _ = position.rotate(q.float(), k.float())
        c, e, _ = position.rotate(q, k)
        found = (a @ b.transpose(-1, -2)).tril().double()
        assert (found - (c @ e.transpose(-1, -2)).tril()).abs().max() <= 1e-3


def test_local_factors_stay_small_at_any_length() -> None:
    """Under blockwise attention nothing grows: at 70,000 tokens fp16 queries and keys stay finite."""
    position = XPos(**schemes.shape(4, 1, 64))
    x = torch.ones(1, 1, 70_000, 4, dtype=torch.float16)
    for y in position.rotate(x, x, block=32):
        assert y is not None
        assert y.isfinite().all()
        # |1 + 1j| sqrt(2), decay within 3.5^(2h/S).
        assert float(y.abs().max()) <= 2**0.5 * 3.5**2 * 1.001
