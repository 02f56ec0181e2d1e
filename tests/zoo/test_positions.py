"""Every position scheme against its paper's formula, by loops in float64 (oracle.py)."""

import math

import pytest
import torch

from kernels.attention import masks
from tests.zoo import oracle, schemes
from tests.zoo.schemes import DYNAMIC, RELATIVE, SCHEMES, D, H, N
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.fire import FIRE
from zoo.positions.learned import Learned
from zoo.positions.rope import RoPE
from zoo.positions.sandwich import Sandwich
from zoo.positions.scaling import NTK, DynamicNTK, Linear, YaRN
from zoo.positions.sinusoidal import Sinusoidal
from zoo.positions.t5 import T5Bias
from zoo.positions.xpos import XPos

# ---- the formulas, through the mixer ------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 43])
@pytest.mark.parametrize("name", [*SCHEMES, "dynamic"])
def test_scores_are_the_papers(name: str, T: int) -> None:
    """A scheme that is not the published one: every comparison drawn from it would be void."""
    source = DYNAMIC if name == "dynamic" else SCHEMES[name]
    position = schemes.new_position(name)
    q, k = schemes.rows(H, T, D, 1), schemes.rows(H, T, D, 2)
    seen = oracle.visible("causal", T)
    found = schemes.assembled(position, q, k)[..., seen]
    assert oracle.closeness(found, source.scores(position, q, k)[..., seen]) <= 1e-12


@pytest.mark.parametrize("mask", ["causal", "window", "blockwise"])
@pytest.mark.parametrize("groups", [1, 2, H])
@pytest.mark.parametrize("name", ["none", "rope half", "xpos", "yarn", "alibi", "t5", "fire"])
def test_scores_through_the_mixer(name: str, groups: int, mask: str) -> None:
    """What the analyses read: every bias included, each head its own group's keys, -inf elsewhere."""
    torch.manual_seed(5)
    mixer = SoftmaxAttention(width=H * D, num_heads=H, num_kv_heads=groups)
    schemes.randomise(mixer, 5)
    position = schemes.new_position(name)
    x = torch.randn(2, 27, H * D)
    q, k, _ = (y.detach().double() for y in mixer.heads(x))
    k_of_head = torch.stack([k[:, h * groups // H] for h in range(H)], dim=1)
    expected = SCHEMES[name].scores(position, q, k_of_head)
    found = mixer.scores(x, position.float(), schemes.mask(mask))
    seen = oracle.visible(mask, 27)
    assert (found[..., ~seen] == -math.inf).all()
    assert oracle.closeness(found[..., seen], expected[..., seen]) <= 1e-5


def test_scores_of_a_float64_model_are_float64() -> None:
    """Checks against theory in float64 must not be cut to seven digits on the way out."""
    torch.manual_seed(3)
    mixer = SoftmaxAttention(width=H * D, num_heads=H).double()
    position = schemes.new_position("xpos")
    x = torch.randn(2, 20, H * D, dtype=torch.float64)
    q, k, _ = (y.detach() for y in mixer.heads(x))
    found = mixer.scores(x, position, masks.causal())
    seen = oracle.visible("causal", 20)
    expected = SCHEMES["xpos"].scores(position, q, k)[..., seen]
    assert found.dtype == torch.float64
    assert oracle.closeness(found[..., seen], expected) <= 1e-12


# ---- where each scheme acts ---------------------------------------------------------------------


def test_learned_adds_its_row() -> None:
    """A shifted or missing row: GPT-2's weights would not give GPT-2's outputs."""
    position = schemes.new_position("learned")
    x = schemes.rows(1, 6, H * D, 1)[:, 0]
    for offset in (0, 5):
        found = position.embed(x, offset)
        for p in range(6):
            expected = x[:, p] + position.table.weight[offset + p]
            assert torch.equal(found[:, p], expected)


def test_learned_refuses_what_its_table_does_not_hold() -> None:
    """A sequence beyond the table must be refused with the remedy, not wrapped or clamped."""
    position = Learned(**schemes.shape())
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
    position = Sinusoidal(**schemes.shape(), scale=scale)
    zero = torch.zeros(1, 7, C, dtype=torch.float64)
    for offset in (0, 3, 5000):
        found = position.embed(zero, offset)[0]
        for p in range(7):
            expected = [scale * oracle.sinusoid(offset + p, c, C) for c in range(C)]
            assert found[p].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_each_scheme_acts_in_one_place(name: str) -> None:
    """A scheme that acts twice is another scheme."""
    position = schemes.new_position(name)
    x, q = schemes.rows(1, 5, H * D, 1)[:, 0], schemes.rows(H, 5, D, 2)
    acts = [
        not torch.equal(position.embed(x, 1), x),
        any(not torch.equal(y, q) for y in position.rotate(q, q) if y is not None),
        position.bias(5, 5) is not None or position.slopes() is not None,
    ]
    assert sum(acts) == (0 if name == "none" else 1)


# ---- invariances --------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1, 29])
@pytest.mark.parametrize("name", RELATIVE)
def test_scores_depend_on_distance_alone(name: str, shift: int) -> None:
    """Translation invariance (the paper's equation 2) to 1e-10."""
    position, T = schemes.new_position(name), 13
    q, k = schemes.rows(H, T + shift, D, 1), schemes.rows(H, T + shift, D, 2)
    near, far = q[:, :, -T:], k[:, :, -T:]

    seen = oracle.visible("causal", T)
    base = schemes.assembled(position, near, far)[..., seen]
    assert (
        oracle.closeness(schemes.assembled(position, q, k)[..., -T:, -T:][..., seen], base) <= 1e-10
    )
    # The same through fewer queries than keys, as in cached decoding.
    assert (
        oracle.closeness(schemes.assembled(position, near, k)[..., -T:][..., seen], base) <= 1e-10
    )


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "fire"])
def test_absolute_schemes_do_depend_on_position(name: str) -> None:
    """The counter-check: a test of invariance that absolute positions pass tests nothing."""
    position = schemes.new_position(name)
    if name == "fire":
        assert oracle.closeness(position.bias(9, 29)[:, :, -9:], position.bias(9, 9)) > 1e-3
        return
    x = schemes.rows(1, 9, H * D, 1)[:, 0]
    assert oracle.closeness(position.embed(x, 20), position.embed(x, 0)) > 1e-3


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "none"])
def test_fewer_queries_are_the_last_rows(name: str) -> None:
    """Cached decoding: the T queries are the last of the S keys, whatever T."""
    position = schemes.new_position(name)
    q, k = schemes.rows(H, 23, D, 1), schemes.rows(H, 23, D, 2)
    whole_q, whole_k, _ = position.rotate(q, k)
    bias = schemes.bias_of(position, 23)
    for T in (1, 4, 22):
        part_q, part_k, _ = position.rotate(q[:, :, -T:], k)
        expected = whole_q @ whole_k.transpose(-1, -2)
        found = part_q @ part_k.transpose(-1, -2)
        seen = oracle.visible("causal", 23)[-T:]
        assert oracle.closeness(found[..., seen], expected[:, :, -T:][..., seen]) <= 1e-12
        if bias is not None:
            part = schemes.bias_of(position, T, 23)
            assert part is not None
            assert oracle.closeness(part[:, seen], bias[:, -T:][:, seen]) <= 1e-12


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
        cls(**{**schemes.shape(), **given})


@pytest.mark.parametrize("rule", [Linear, NTK, DynamicNTK, YaRN])
def test_scalings_refuse_to_shrink(rule) -> None:
    """A stretch of zero or below would divide by zero or turn positions round."""
    for factor in (0.0, -2.0):
        with pytest.raises(ValueError, match=r"^factor"):
            rule(factor=factor)
