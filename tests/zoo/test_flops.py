"""Counts of parameters and FLOPs, by hand and pair by pair."""

import math

import pytest
import torch

from tests.zoo import oracle, schemes
from tests.zoo.schemes import MASKS, PRESETS, VOCAB, D, H, N
from zoo.bench import preset
from zoo.flops import (
    matmul_parameters,
    parameters_by_part,
    peak_flops,
    training_flops,
    visible_pairs,
)
from zoo.load import build

C = H * D


def shaped(name: str, **shape):
    node = preset(name, shape.pop("vocab_size", VOCAB))
    node.update(context_length=N, num_layers=2, width=C, num_heads=H)
    node.update(shape)
    with torch.device("meta"):
        return build(node, key="model")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_parts_sum_to_the_whole(name: str, tied: bool) -> None:
    """No parameter counted twice or forgotten in the table of a run."""
    model = schemes.model(name, tie_embeddings=tied, num_layers=3)
    parts = parameters_by_part(model)
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts["embedding"] == VOCAB * C
    assert parts["mixer"] == 3 * 4 * C * C
    assert parts["mlp"] == 3 * 8 * C * C
    assert parts["norm"] == 7 * C
    assert parts.get("head", 0) == (0 if tied else VOCAB * C)
    positions = {"gpt2": 900 * C, "t5": 32 * H, "kerple": 3 * 2 * H}
    positions["fire"] = 3 * (2 + 32 + 32 + 32 * H + H)
    assert parts.get("position", 0) == positions.get(name, 0)


def test_gpt2_small_by_hand() -> None:
    """GPT-2's 124M: its published count less the biases, which this shape leaves out."""
    model = shaped("gpt2", vocab_size=50257, context_length=1024, num_layers=12, width=768, num_heads=12)  # fmt: skip
    parts = parameters_by_part(model)
    assert parts["embedding"] == 38_597_376
    assert parts["position"] == 786_432
    assert parts["mixer"] + parts["mlp"] == 84_934_656
    assert parts["norm"] == 19_200
    # 124,439,808 with biases: 12 layers of 9 C + 2 C for norms, and C of the last norm.
    assert sum(parts.values()) == 124_439_808 - 12 * 11 * 768 - 768


@pytest.mark.parametrize("length", [1, 5, N, 2 * N + 3])
@pytest.mark.parametrize("mask", list(MASKS))
def test_visible_pairs_one_by_one(mask: str, length: int) -> None:
    """The pairs that exact FLOPs charge for."""
    model = schemes.model("rope", mask)
    assert visible_pairs(model, length) == int(oracle.visible(mask, length).sum())


def test_pairs_of_lex_against_causal() -> None:
    """The published saving: at N = 1024, 0.625 of full causal at 2048 and 0.344 at 4096."""
    model = shaped("xpos", context_length=1024)
    for length, share in ((2048, 0.625), (4096, 0.344)):
        full = length * (length + 1) // 2
        assert visible_pairs(model, length) / full == pytest.approx(share, abs=0.0005)
    assert visible_pairs(model, 1024) == 1024 * 1025 // 2


@pytest.mark.parametrize("name", PRESETS)
def test_flops_of_a_token_by_hand(name: str) -> None:
    """6 N + 12 L H D T, and with exact pairs: the utilisation that a run reports rests on it.

    Every preset multiplies a token with the same matrices; a position's own network is not one.
    """
    model = schemes.model(name, "causal", num_layers=3)
    T = 24
    matrices = 3 * 12 * C * C + VOCAB * C
    assert matmul_parameters(model) == matrices
    assert training_flops(model, T) == 6 * matrices + 12 * 3 * C * T
    assert training_flops(model, T, exact=True) == 6 * matrices + 12 * 3 * C * (T + 1) / 2


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_counts_once(tied: bool) -> None:
    """A tied table is multiplied as the head and looked up as the embedding: N has it once."""
    model = schemes.model("rope", tie_embeddings=tied)
    assert matmul_parameters(model) == 2 * 12 * C * C + VOCAB * C


def test_other_parts_count_as_they_are() -> None:
    """Grouped keys and SwiGLU have matrices of their own sizes."""
    model = schemes.model(
        "rope",
        mixer={
            "_target_": "zoo.mixers.softmax.SoftmaxAttention",
            "_partial_": True,
            "num_kv_heads": 1,
        },
        mlp={"_target_": "zoo.mlp.SwiGLU", "_partial_": True},
    )
    hidden = 32 * math.ceil(8 / 3 * C / 32)
    each = C * (C + 2 * D) + C * C + 3 * C * hidden
    assert matmul_parameters(model) == 2 * each + VOCAB * C


def test_flops_against_a_count_of_products() -> None:
    """6 N is what the matrices really cost: two FLOPs a product forward, four backward."""
    from torch.utils.flop_counter import FlopCounterMode

    model = schemes.model("nope", num_layers=2)
    text = schemes.tokens(1, N)
    # Attention is left out of the count on both sides: CPU attention is not a counted operation.
    counter = FlopCounterMode(display=False)
    with counter:
        model(text).sum().backward()
    products = {k: v for k, v in counter.get_flop_counts()["Global"].items() if "mm" in str(k)}
    assert sum(products.values()) == 6 * matmul_parameters(model) * N


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("Tesla V100-SXM2-16GB", 125e12),
    ],
)
def test_peaks_by_the_names_that_devices_give(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Utilisation against another part's peak would be off by multiples."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    assert peak_flops(torch.device("cuda")) == peak
