"""Every position scheme against its paper's formula, by loops in float64 (oracle.py)."""

import math

import pytest
import torch
from torch import Tensor

from kernels.attention import masks
from tests.zoo import oracle
from tests.zoo.oracle import DYNAMIC, RELATIVE, SCHEMES, D, H, N
from zoo.load import build
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.alibi import ALiBi, alibi_slopes
from zoo.positions.fire import FIRE
from zoo.positions.kerple import KerpleLog, KerplePower
from zoo.positions.learned import Learned
from zoo.positions.rope import RoPE
from zoo.positions.sandwich import Sandwich
from zoo.positions.scaling import NTK, DynamicNTK, Linear, YaRN
from zoo.positions.sinusoidal import Sinusoidal
from zoo.positions.t5 import T5Bias
from zoo.positions.xpos import XPos


def shape(head_dim: int = D, heads: int = H, context_length: int = N) -> dict[str, int]:
    return {
        "num_heads": heads,
        "head_dim": head_dim,
        "width": heads * head_dim,
        "context_length": context_length,
    }


def scheme(name: str, seed: int = 0, **given: int):
    source = DYNAMIC if name == "dynamic" else SCHEMES[name]
    torch.manual_seed(seed)
    position = build(source.node())(**{**shape(), **given})
    oracle.randomise(position, seed)
    return position.double()


def rows(heads: int, T: int, d: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads, T, d, generator=draw, dtype=torch.float64)


def bias_of(position, T: int, S: int | None = None, **options) -> Tensor:
    """The additive bias of a scheme, ALiBi's slopes included."""
    S = T if S is None else S
    slopes = position.slopes()
    if slopes is not None:
        i, j = torch.arange(S - T, S)[:, None], torch.arange(S)
        return -slopes.double()[:, None, None] * (i - j)
    return position.bias(T, S, **options)


# ---- the formulas, through the mixer ------------------------------------------------------------


def assembled(position, q: Tensor, k: Tensor) -> Tensor:
    """Scores put together from the three places where a scheme may act."""
    a, b, _ = position.rotate(q, k)
    scores = a @ b.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2)
    scores = scores / math.sqrt(q.shape[-1])
    bias = bias_of(position, q.shape[2], k.shape[2])
    return scores if bias is None else scores + bias


@pytest.mark.parametrize("T", [1, 2, 43])
@pytest.mark.parametrize("name", [*SCHEMES, "dynamic"])
def test_scores_are_the_papers(name: str, T: int) -> None:
    """A scheme that is not the published one: every comparison drawn from it would be void."""
    source = DYNAMIC if name == "dynamic" else SCHEMES[name]
    position = scheme(name)
    q, k = rows(H, T, D, 1), rows(H, T, D, 2)
    seen = oracle.visible("causal", T)
    found = assembled(position, q, k)[..., seen]
    assert oracle.closeness(found, source.scores(position, q, k)[..., seen]) <= 1e-12


@pytest.mark.parametrize("mask", ["causal", "window", "blockwise"])
@pytest.mark.parametrize("groups", [1, 2, H])
@pytest.mark.parametrize("name", ["none", "rope half", "xpos", "yarn", "alibi", "t5", "fire"])
def test_scores_through_the_mixer(name: str, groups: int, mask: str) -> None:
    """What the analyses read: every bias included, each head its own group's keys, -inf elsewhere."""
    torch.manual_seed(5)
    mixer = SoftmaxAttention(width=H * D, num_heads=H, num_kv_heads=groups)
    oracle.randomise(mixer, 5)
    position = scheme(name)
    x = torch.randn(2, 27, H * D)
    q, k, _ = (y.detach().double() for y in mixer.heads(x))
    k_of_head = torch.stack([k[:, h * groups // H] for h in range(H)], dim=1)
    expected = SCHEMES[name].scores(position, q, k_of_head)
    found = mixer.scores(x, position.float(), oracle.mask(mask))
    seen = oracle.visible(mask, 27)
    assert (found[..., ~seen] == -math.inf).all()
    assert oracle.closeness(found[..., seen], expected[..., seen]) <= 1e-5


def test_scores_of_a_float64_model_are_float64() -> None:
    """Checks against theory in float64 must not be cut to seven digits on the way out."""
    torch.manual_seed(3)
    mixer = SoftmaxAttention(width=H * D, num_heads=H).double()
    position = scheme("xpos")
    x = torch.randn(2, 20, H * D, dtype=torch.float64)
    q, k, _ = (y.detach() for y in mixer.heads(x))
    found = mixer.scores(x, position, masks.causal())
    seen = oracle.visible("causal", 20)
    expected = SCHEMES["xpos"].scores(position, q, k)[..., seen]
    assert found.dtype == torch.float64
    assert oracle.closeness(found[..., seen], expected) <= 1e-12


# ---- rotations ----------------------------------------------------------------------------------


def test_xpos_by_hand() -> None:
    """d=4, L=4, n=3, x=(1,0,0,1), S=512: the values of the fact sheet."""
    xpos = XPos(**shape(4), scale_base=512)
    x = torch.tensor([1, 1j], dtype=torch.complex128)
    at = torch.tensor([3])
    query = torch.view_as_real(x * xpos.factors(at, 4, 2.0)[0]).flatten()
    key = torch.view_as_real(x * xpos.factors(at, 4, 2.0, inverse=True)[0]).flatten()
    assert query.tolist() == pytest.approx([-0.987573, 0.140775, -0.029970, 0.998688], abs=5.1e-7)
    assert key.tolist() == pytest.approx([-0.992418, 0.141466, -0.030021, 1.000413], abs=5.1e-7)


def test_zeta_of_eight_channels() -> None:
    """The decays of the paper's pairs, whose wrong grid would be RetNet's."""
    xpos = XPos(**shape(8), scale_base=1.0)
    decay = xpos.factors(torch.tensor([1]), 2, 0.0).abs()[0]
    assert decay.tolist() == pytest.approx([0.285714, 0.464286, 0.642857, 0.821429], abs=5.1e-7)
    for d, last in ((16, 0.910714), (24, 0.940476), (64, 0.977679), (128, 0.988839)):
        found = XPos(**shape(d), scale_base=1.0).factors(torch.tensor([1]), 2, 0.0).abs()[0]
        assert float(found[-1]) == pytest.approx(last, abs=5.1e-7)
        assert float(found[0]) == pytest.approx(2 / 7, rel=1e-14)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_norm_of_a_turned_pair_is_its_decay(layout: str) -> None:
    """Decay on the wrong channels (it shipped elsewhere): each pair's norm is zeta^((n-c)/S)."""
    L, d, S = 9, 12, 5.0
    xpos = XPos(**shape(d), scale_base=S, layout=layout)
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
    xpos = XPos(**shape(8), scale_base=6.0)
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
    position = cls(**shape(64, 1, 1024), **options)
    one = torch.zeros(1, 1, 4097, 64, dtype=torch.float64)
    one[..., 0::2] = 1
    q, k, _ = position.rotate(one[:, :, -1:], one)
    g = (k[0, 0] @ q[0, 0, 0]).flip(0)
    for n, value in curve.items():
        assert float(g[n]) == pytest.approx(value, abs=0.00051 if n >= 64 else 0.000051)


def test_xpos_without_decay_is_rope() -> None:
    """S to infinity: the ablation that separates decay from rotation."""
    q, k = rows(H, 33, D, 1), rows(H, 33, D, 2)
    a, b, _ = XPos(**shape(), scale_base=1e18).rotate(q, k)
    c, d, _ = RoPE(**shape()).rotate(q, k)
    assert oracle.closeness(a, c) <= 1e-12
    assert oracle.closeness(b, d) <= 1e-12


@pytest.mark.parametrize("cls", [RoPE, XPos])
@pytest.mark.parametrize("block", [None, 4])
def test_layouts_are_a_permutation_of_channels(cls, block: int | None) -> None:
    """Weights converted between the two layouts must give the same model."""
    q, k = rows(H, 21, D, 1), rows(H, 21, D, 2)
    order = torch.cat((torch.arange(0, D, 2), torch.arange(1, D, 2)))
    one = cls(**shape(), layout="interleaved").rotate(q, k, block=block)
    two = cls(**shape(), layout="half").rotate(q[..., order], k[..., order], block=block)
    for x, y in zip(one, two):
        if x is None:
            assert y is None
        else:
            assert oracle.closeness(y, x[..., order]) <= 1e-12


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_partial_rotation_leaves_the_rest(fraction: float) -> None:
    """GPT-J and GPT-NeoX weights: only the first channels of a head turn, as a smaller head would."""
    d, turned = 16, round(16 * fraction)
    q, k = rows(H, 9, d, 1), rows(H, 9, d, 2)
    a, b, _ = RoPE(**shape(d), fraction=fraction).rotate(q, k)
    c, e, _ = RoPE(**shape(turned)).rotate(q[..., :turned], k[..., :turned])
    assert torch.equal(a[..., turned:], q[..., turned:])
    assert torch.equal(b[..., turned:], k[..., turned:])
    assert oracle.closeness(a[..., :turned], c) <= 1e-12
    assert oracle.closeness(b[..., :turned], e) <= 1e-12


def test_dynamic_ntk_is_rope_up_to_the_training_length() -> None:
    """No stretch where none is needed: scores within the training length are the trained ones."""
    q, k = rows(H, N, D, 1), rows(H, N, D, 2)
    plain, dynamic = RoPE(**shape()), RoPE(**shape(), scaling=DynamicNTK(factor=4.0))
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
    q, k = rows(H, 7, D, 1), rows(H, 7, D, 2)
    a, b, _ = RoPE(**shape(), scaling=YaRN(factor=8.0)).rotate(q, k)
    expected = (q * k).sum(-1) * (0.1 * math.log(8) + 1) ** 2
    assert oracle.closeness((a * b).sum(-1), expected) <= 1e-12


# ---- where each scheme acts ---------------------------------------------------------------------


def test_learned_adds_its_row() -> None:
    """A shifted or missing row: GPT-2's weights would not give GPT-2's outputs."""
    position = scheme("learned")
    x = rows(1, 6, H * D, 1)[:, 0]
    for offset in (0, 5):
        found = position.embed(x, offset)
        for p in range(6):
            expected = x[:, p] + position.table.weight[offset + p]
            assert torch.equal(found[:, p], expected)


def test_learned_refuses_what_its_table_does_not_hold() -> None:
    """A sequence beyond the table must be refused with the remedy, not wrapped or clamped."""
    position = Learned(**shape())
    assert position.max_length == N
    position.embed(torch.zeros(1, N, H * D))
    position.embed(torch.zeros(1, 1, H * D), N - 1)
    for T, offset in ((N + 1, 0), (1, N), (2, N - 1)):
        with pytest.raises(ValueError, match="max_length"):
            position.embed(torch.zeros(1, T, H * D), offset)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_sinusoidal_table(scale: float) -> None:
    """Vaswani's table, sine on even and cosine on odd channels, from any offset."""
    C = H * D
    position = Sinusoidal(**shape(), scale=scale)
    zero = torch.zeros(1, 7, C, dtype=torch.float64)
    for offset in (0, 3, 5000):
        found = position.embed(zero, offset)[0]
        for p in range(7):
            expected = [scale * oracle.sinusoid(offset + p, c, C) for c in range(C)]
            assert found[p].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_each_scheme_acts_in_one_place(name: str) -> None:
    """A scheme that acts twice is another scheme."""
    position = scheme(name)
    x, q = rows(1, 5, H * D, 1)[:, 0], rows(H, 5, D, 2)
    acts = [
        not torch.equal(position.embed(x, 1), x),
        any(not torch.equal(y, q) for y in position.rotate(q, q) if y is not None),
        position.bias(5, 5) is not None or position.slopes() is not None,
    ]
    assert sum(acts) == (0 if name == "none" else 1)


# ---- biases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_slopes(heads: int) -> None:
    """The published slopes, also for the 12 and 20 heads of GPT-2's shapes."""
    expected = [oracle.alibi_slope(h, heads) for h in range(1, heads + 1)]
    assert alibi_slopes(heads) == pytest.approx(expected, rel=1e-15)
    assert ALiBi(**shape(heads=heads)).slopes().tolist() == pytest.approx(expected, rel=1e-7)


def test_alibi_slopes_by_hand() -> None:
    """Eight heads: 1/2 to 1/256, as the paper prints them; twelve add four from sixteen."""
    assert alibi_slopes(8) == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


@pytest.mark.parametrize(
    "buckets, farthest", [(32, 128), (8, 64), (8, 32), (16, 1024), (2, 9), (32, 17)]
)
def test_t5_buckets(buckets: int, farthest: int) -> None:
    """A bucket's edge one token off, where the logarithm lands on a whole number."""
    position = T5Bias(**shape(), num_buckets=buckets, max_distance=farthest)
    r = torch.arange(2 * farthest)
    expected = [oracle.t5_bucket(n, buckets, farthest) for n in r.tolist()]
    assert position.bucket(r).tolist() == expected


def test_t5_buckets_by_hand() -> None:
    """The fact sheet's line: exact below 16, logarithmic to 128, one bucket beyond."""
    found = T5Bias(**shape()).bucket(torch.tensor([0, 1, 15, 16, 18, 19, 32, 127, 128, 99999]))
    assert found.tolist() == [0, 1, 15, 16, 16, 17, 21, 31, 31, 31]


@pytest.mark.parametrize("cls, top", [(KerpleLog, math.inf), (KerplePower, 2.0)])
def test_kerple_stays_a_kernel(cls, top: float) -> None:
    """Parameters pushed out of range by training must still give a finite, falling bias."""
    for value in (-50.0, -1.0, 0.0, 0.5, 3.0, 50.0):
        position = cls(**shape())
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
        position = cls(**shape())
        position.reset_parameters()
        position.bias(9, 9).square().sum().backward()
        for parameter in position.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs() > 0).all()


@pytest.mark.parametrize("cls", [KerpleLog, KerplePower])
def test_kerple_parameters_come_back(cls) -> None:
    """A parameter that one step pushes past its bound must not be stuck there for good."""
    position = cls(**shape())
    with torch.no_grad():
        position.r1_H.fill_(-0.02)
    position.bias(9, 9).sum().backward()
    assert (position.r1_H.grad.abs() > 0).all()


def test_kerple_power_by_its_formula() -> None:
    """-r1 r^r2 from the module's own parameters, nothing at distance 0."""
    position = scheme("kerple power")
    r1, r2 = (x.detach().flatten().tolist() for x in position.positive())
    row = position.bias(1, 30)[:, 0].flip(-1)
    for h in range(H):
        for r in range(30):
            assert float(row[h, r]) == pytest.approx(
                oracle.kerple_power(r, r1[h], r2[h]), rel=1e-12
            )


@pytest.mark.parametrize("dim", [2, 64, 128])
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_sandwich(dim: int, heads: int) -> None:
    """Sandwich's sum over its own width, compressed head by head."""
    row = Sandwich(**shape(heads=heads), dim=dim).double().bias(1, 50)[:, 0].flip(-1)
    for h in range(heads):
        for r in range(50):
            expected = oracle.sandwich(r, h + 1, heads, dim)
            assert float(row[h, r]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_fire_positions_are_the_sequences_own() -> None:
    """Tokens let go of still count: query i of the text is normalised by psi(i)."""
    position = scheme("fire")
    whole = position.bias(30, 30)
    part = position.bias(4, 11, start=19)
    rows_, columns = torch.arange(26, 30)[:, None], torch.arange(19, 30)
    seen = columns <= rows_
    assert oracle.closeness(part[:, seen], whole[:, 26:, 19:][:, seen]) <= 1e-12


def test_fire_threshold_and_c_stay_usable() -> None:
    """c or the threshold driven below zero by training must not give NaN."""
    for c, threshold in ((-1.0, 5.0), (0.0, 5.0), (0.1, -3.0), (0.1, 0.0), (1e-6, 1e-6)):
        position = FIRE(**shape())
        with torch.no_grad():
            position.c.fill_(c)
            position.threshold.fill_(threshold)
        bias = position.bias(12, 12)
        assert bias.isfinite().all(), (c, threshold)
        bias.square().sum().backward()
        for p in position.parameters():
            assert p.grad is None or p.grad.isfinite().all(), (c, threshold)


# ---- invariances --------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1, 29])
@pytest.mark.parametrize("name", RELATIVE)
def test_scores_depend_on_distance_alone(name: str, shift: int) -> None:
    """Translation invariance (the paper's equation 2) to 1e-10."""
    position, T = scheme(name), 13
    q, k = rows(H, T + shift, D, 1), rows(H, T + shift, D, 2)
    near, far = q[:, :, -T:], k[:, :, -T:]

    seen = oracle.visible("causal", T)
    base = assembled(position, near, far)[..., seen]
    assert oracle.closeness(assembled(position, q, k)[..., -T:, -T:][..., seen], base) <= 1e-10
    # The same through fewer queries than keys, as in cached decoding.
    assert oracle.closeness(assembled(position, near, k)[..., -T:][..., seen], base) <= 1e-10


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "fire"])
def test_absolute_schemes_do_depend_on_position(name: str) -> None:
    """The counter-check: a test of invariance that absolute positions pass tests nothing."""
    position = scheme(name)
    if name == "fire":
        assert oracle.closeness(position.bias(9, 29)[:, :, -9:], position.bias(9, 9)) > 1e-3
        return
    x = rows(1, 9, H * D, 1)[:, 0]
    assert oracle.closeness(position.embed(x, 20), position.embed(x, 0)) > 1e-3


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "none"])
def test_fewer_queries_are_the_last_rows(name: str) -> None:
    """Cached decoding: the T queries are the last of the S keys, whatever T."""
    position = scheme(name)
    q, k = rows(H, 23, D, 1), rows(H, 23, D, 2)
    whole_q, whole_k, _ = position.rotate(q, k)
    bias = bias_of(position, 23)
    for T in (1, 4, 22):
        part_q, part_k, _ = position.rotate(q[:, :, -T:], k)
        expected = whole_q @ whole_k.transpose(-1, -2)
        found = part_q @ part_k.transpose(-1, -2)
        seen = oracle.visible("causal", 23)[-T:]
        assert oracle.closeness(found[..., seen], expected[:, :, -T:][..., seen]) <= 1e-12
        if bias is not None:
            part = bias_of(position, T, 23)
            assert part is not None
            assert oracle.closeness(part[:, seen], bias[:, -T:][:, seen]) <= 1e-12


@pytest.mark.parametrize("name", ["xpos", "xpos half", "rope"])
@pytest.mark.parametrize("T, S", [(40, 40), (1, 40), (7, 40), (3, 18), (1, 1), (6, 6)])
def test_window_local_scores(name: str, T: int, S: int) -> None:
    """Own queries against their block, previous ones against the block before: the global scores."""
    h = 6
    position = scheme(name)
    q, k = rows(H, S, D, 1), rows(H, S, D, 2)
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
    position = cls(**shape(8, 2, 4096)).to(dtype)
    q = rows(2, 2100, 8, 1).to(dtype)
    exact = cls(**shape(8, 2, 4096)).rotate(q.double(), q.double())
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
        position = cls(**shape(d, 1, L), **options)
        q, k = rows(1, L, d, 1)[:1], rows(1, L, d, 2)[:1]
        a, b, _ = position.rotate(q.float(), k.float())
        c, e, _ = position.rotate(q, k)
        found = (a @ b.transpose(-1, -2)).tril().double()
        assert (found - (c @ e.transpose(-1, -2)).tril()).abs().max() <= 1e-3


def test_local_factors_stay_small_at_any_length() -> None:
    """Under blockwise attention nothing grows: at 70,000 tokens fp16 queries and keys stay finite."""
    position = XPos(**shape(4, 1, 64))
    x = torch.ones(1, 1, 70_000, 4, dtype=torch.float16)
    for y in position.rotate(x, x, block=32):
        assert y is not None
        assert y.isfinite().all()
        # |1 + 1j| sqrt(2), decay within 3.5^(2h/S).
        assert float(y.abs().max()) <= 2**0.5 * 3.5**2 * 1.001


# ---- constructors -------------------------------------------------------------------------------


BAD = [
    (RoPE, {"head_dim": 7}, ".*(head_dim|width)"),
    (RoPE, {"base": 0.0}, "base"),
    (RoPE, {"base": -3.0}, "base"),
    (RoPE, {"layout": "split"}, "layout"),
    (RoPE, {"fraction": 0.0}, "fraction"),
    (RoPE, {"fraction": 1.5}, "fraction"),
    (XPos, {"head_dim": 5}, ".*(head_dim|width)"),
    (XPos, {"scale_base": 0.0}, "scale_base"),
    (XPos, {"scale_base": -1.0}, "scale_base"),
    (Sinusoidal, {"base": 0.0}, "base"),
    (Learned, {"max_length": 0}, "max_length"),
    (T5Bias, {"num_buckets": 1}, "num_buckets"),
    (T5Bias, {"max_distance": 0}, "max_distance"),
    (T5Bias, {"num_buckets": 32, "max_distance": 16}, "max_distance"),
    (FIRE, {"hidden": 0}, "hidden"),
    (FIRE, {"threshold": -1.0}, "threshold"),
    (Sandwich, {"dim": 0}, "dim"),
    (Sandwich, {"dim": 7}, "dim"),
]


@pytest.mark.parametrize("cls, given, name", BAD)
def test_bad_values_are_refused_by_name(cls, given: dict, name: str) -> None:
    """A value that makes no sense must be named before training starts."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        cls(**{**shape(), **given})


@pytest.mark.parametrize("rule", [Linear, NTK, DynamicNTK, YaRN])
def test_scalings_refuse_to_shrink(rule) -> None:
    """A stretch of zero or below would divide by zero or turn positions round."""
    for factor in (0.0, -2.0):
        with pytest.raises(ValueError, match=r"^factor"):
            rule(factor=factor)
