"""The decoder against one written by hand, and what training with it takes for granted."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.zoo import oracle, schemes
from tests.zoo.schemes import MASKS, SCHEMES, VOCAB, H, N, gelu, layer_norm, tokens
from zoo.load import ConfigError
from zoo.mlp import GELU, SwiGLU
from zoo.norms import LayerNorm, RMSNorm

T = 37


def mixer_node(**options) -> dict:
    return {
        "_target_": "zoo.mixers.softmax.SoftmaxAttention",
        "_partial_": True,
        "num_kv_heads": None,
        "bias": False,
        **options,
    }


# ---- same maths, same numbers -------------------------------------------------------------------


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", list(SCHEMES))
def test_decoder_is_the_one_by_hand(name: str, mask: str) -> None:
    """Every scheme under every mask: the network that is trained is the one that is described."""
    model = schemes.model(name, mask).double()
    text = tokens(2, T)
    with torch.no_grad():
        found = model(text)
    expected = schemes.decoder(model, name, text, oracle.visible(mask, T))
    assert oracle.closeness(found, expected) <= 1e-10


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind, size", [("causal", None), ("window", 100), ("blockwise", 72)])
@pytest.mark.parametrize("name", ["rope half", "xpos half", "alibi", "t5"])
def test_long_texts(name: str, kind: str, size: int | None, packed: bool) -> None:
    """Lengths at which attention is cut into pieces: the same network, cached or not."""
    L = 340
    option = {"window": "window", "blockwise": "block"}.get(kind)
    node = {**MASKS[kind], **({option: size} if option else {})}
    model = schemes.model(name, node, num_layers=1, context_length=256).double()
    see, given = oracle.visible(kind, L, size), {}
    if packed:
        ids = torch.tensor([0] * 133 + [1] + [2] * 65 + [3] * 101 + [4] * 40)
        see = see & (ids[:, None] == ids)
        given = {"documents_BT": ids[None].expand(2, -1)}
    text = tokens(2, L)
    with torch.no_grad():
        found = model(text, **given)
        assert oracle.closeness(found, schemes.decoder(model, name, text, see)) <= 1e-10
        short = model.float()(text, **given)
        assert oracle.closeness(short.double(), found) <= 1e-5
        if not packed:
            model.double()
            cache = model.new_cache()
            parts = [model(part, cache=cache) for part in text.split([70, 1, 269], 1)]
            assert oracle.closeness(torch.cat(parts, 1), found) <= 1e-10


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["rope", "xpos", "alibi", "kerple log"])
def test_grouped_query_attention(name: str, groups: int) -> None:
    """Each group of query heads reads its own keys and values, in the order of the heads."""
    model = schemes.model(name, "blockwise", mixer=mixer_node(num_kv_heads=groups)).double()
    text = tokens(2, T)
    with torch.no_grad():
        found = model(text)
    see = oracle.visible("blockwise", T)
    expected = schemes.decoder(model, name, text, see, groups=groups)
    assert oracle.closeness(found, expected) <= 1e-10


@pytest.mark.parametrize("name", list(SCHEMES))
def test_float32_is_float64_to_seven_digits(name: str) -> None:
    """A fast path of its own for float32 must compute the same thing."""
    model = schemes.model(name, "blockwise")
    text = tokens(2, T)
    with torch.no_grad():
        found = model(text)
        exact = model.double()(text)
    assert oracle.closeness(found.double(), exact) <= 1e-5


class HandGPT2(nn.Module):
    """GPT-2 from a flat dict of weights, with every bias and the tanh GELU; plain tensor ops."""

    def __init__(self, weights: dict[str, Tensor], heads: int):
        super().__init__()
        self.w = weights
        self.heads = heads

    def forward(self, text: Tensor) -> Tensor:
        w = self.w
        L = text.shape[1]
        x = w["embedding.weight"][text] + w["position.table.weight"][:L]
        C = x.shape[-1]
        d = C // self.heads
        for layer in itertools.count():
            at = f"blocks.{layer}."
            if at + "mixer.qkv.weight" not in w:
                break
            y = layer_norm(x, w[at + "mixer_norm.weight"], w[at + "mixer_norm.bias"])
            y = y @ w[at + "mixer.qkv.weight"].T + w[at + "mixer.qkv.bias"]
            out = torch.zeros_like(x)
            for h in range(self.heads):
                cut = slice(h * d, (h + 1) * d)
                q, k, v = (y[..., i * C : (i + 1) * C][..., cut] for i in range(3))
                for t in range(L):
                    e = (k[:, : t + 1] * q[:, t : t + 1]).sum(-1) / math.sqrt(d)
                    p = torch.exp(e - e.max(-1, keepdim=True).values)
                    p = p / p.sum(-1, keepdim=True)
                    out[:, t, cut] = (p[..., None] * v[:, : t + 1]).sum(1)
            x = x + out @ w[at + "mixer.project.weight"].T + w[at + "mixer.project.bias"]
            y = layer_norm(x, w[at + "mlp_norm.weight"], w[at + "mlp_norm.bias"])
            y = y @ w[at + "mlp.expand.weight"].T + w[at + "mlp.expand.bias"]
            y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
            x = x + y @ w[at + "mlp.project.weight"].T + w[at + "mlp.project.bias"]
        return layer_norm(x, w["norm.weight"], w["norm.bias"]) @ w["head.weight"].T


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_with_every_bias(tied: bool) -> None:
    """GPT-2's published shape, biases and tanh GELU included: its weights would give its logits."""
    model = schemes.model(
        "gpt2",
        mixer=mixer_node(bias=True),
        mlp={"_target_": "zoo.mlp.GELU", "_partial_": True, "approximate": "tanh", "bias": True},
        norm={"_target_": "zoo.norms.LayerNorm", "_partial_": True, "bias": True},
        tie_embeddings=tied,
        num_layers=3,
    ).double()
    text = tokens(2, N)
    weights = {k: v.detach() for k, v in model.state_dict().items()}
    assert torch.equal(weights["head.weight"], weights["embedding.weight"]) == tied
    with torch.no_grad():
        found = model(text)
        assert oracle.closeness(found, HandGPT2(weights, H)(text)) <= 1e-10


# ---- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("bias", [False, True])
def test_gelu_by_hand(approximate: str, bias: bool) -> None:
    """The MLP of GPT-2, exact or with the tanh."""
    torch.manual_seed(0)
    mlp = GELU(12, expansion=3, approximate=approximate, bias=bias).double()  # type: ignore[arg-type]
    schemes.randomise(mlp)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    w = {k: v.detach() for k, v in mlp.state_dict().items()}
    assert w["expand.weight"].shape == (36, 12)
    y = x @ w["expand.weight"].T + w.get("expand.bias", 0)
    if approximate == "none":
        y = gelu(y)
    else:
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    y = y @ w["project.weight"].T + w.get("project.bias", 0)
    assert oracle.closeness(mlp(x), y) <= 1e-12


def test_swiglu_by_hand() -> None:
    """project(silu(gate) * value), 8/3 of the width in whole multiples."""
    torch.manual_seed(0)
    mlp = SwiGLU(24, multiple_of=16).double()
    schemes.randomise(mlp)
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    w = {k: v.detach() for k, v in mlp.state_dict().items()}
    assert w["project.weight"].shape == (24, 64)
    both = x @ w["expand.weight"].T
    gate, value = both[..., :64], both[..., 64:]
    y = (gate / (1 + torch.exp(-gate)) * value) @ w["project.weight"].T
    assert oracle.closeness(mlp(x), y) <= 1e-12
    assert SwiGLU(768).project.weight.shape == (768, 2048)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_by_hand(bias: bool) -> None:
    """The biased variance, eps inside the root."""
    norm = LayerNorm(9, bias=bias).double()
    schemes.randomise(nn.ModuleDict({"norm": norm}))
    x = torch.randn(3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-2
    expected = layer_norm(x, norm.weight, norm.bias)
    assert (norm.bias is None) == (not bias)
    assert oracle.closeness(norm(x), expected) <= 1e-12


def test_rms_norm_by_hand() -> None:
    """x / rms(x) * weight, no mean taken off; in bf16 the mean square is not rounded to bf16."""
    norm = RMSNorm(9).double()
    schemes.randomise(nn.ModuleDict({"norm": norm}))
    x = torch.randn(3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    expected = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * norm.weight
    assert oracle.closeness(norm(x), expected) <= 1e-12
    wide = RMSNorm(4096).to(torch.bfloat16)
    ones = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert (wide(ones) == 1).all()


@pytest.mark.parametrize("mask", ["causal", "blockwise"])
def test_rms_norm_and_swiglu_in_the_decoder(mask: str) -> None:
    """The LLaMA shape composes: other parts, same decoder, and its cache."""
    model = schemes.model(
        "rope",
        mask,
        mlp={"_target_": "zoo.mlp.SwiGLU", "_partial_": True},
        norm={"_target_": "zoo.norms.RMSNorm", "_partial_": True},
        tie_embeddings=False,
    ).double()
    text = tokens(2, 30)
    with torch.no_grad():
        full = model(text)
        cache = model.new_cache()
        parts = [model(part, cache=cache) for part in text.split([11, 1, 1, 17], dim=1)]
    assert oracle.closeness(torch.cat(parts, 1), full) <= 1e-10


# ---- what is refused ----------------------------------------------------------------------------

BAD = [
    ({"vocab_size": 0}, "vocab_size"),
    ({"context_length": 0}, "context_length"),
    ({"num_layers": 0}, "num_layers"),
    ({"width": 0}, "width"),
    ({"num_heads": 0}, "num_heads"),
    ({"width": 33}, "width"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": -0.1}, "dropout"),
    ({"mixer": mixer_node(num_kv_heads=3)}, "mixer.num_kv_heads"),
    ({"mixer": mixer_node(num_kv_heads=0)}, "mixer.num_kv_heads"),
    (
        {"mlp": {"_target_": "zoo.mlp.GELU", "_partial_": True, "expansion": 0}},
        "mlp.expansion",
    ),
    (
        {"mlp": {"_target_": "zoo.mlp.GELU", "_partial_": True, "approximate": "erf"}},
        "mlp.approximate",
    ),
    (
        {"mlp": {"_target_": "zoo.mlp.SwiGLU", "_partial_": True, "multiple_of": 0}},
        "mlp.multiple_of",
    ),
    (
        {
            "position": {
                "_target_": "zoo.positions.rope.RoPE",
                "_partial_": True,
                "layout": "split",
            }
        },
        "position.layout",
    ),
    (
        {
            "position": {
                "_target_": "zoo.positions.rope.RoPE",
                "_partial_": True,
                "scaling": {"_target_": "zoo.positions.scaling.YaRN", "factor": 0.5},
            }
        },
        "position.scaling.factor",
    ),
    (
        {
            "position": {
                "_target_": "zoo.positions.learned.Learned",
                "_partial_": True,
                "max_length": 3,
            }
        },
        "position.max_length",
    ),
]


@pytest.mark.parametrize("given, key", BAD)
def test_bad_values_name_their_key(given: dict, key: str) -> None:
    """One line that names the config key, before anything runs."""
    with pytest.raises(ConfigError, match=rf"^model\.{key}\b") as caught:
        schemes.model("rope", **given)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_named() -> None:
    """A misspelt key of a part is refused with the names that would do."""
    with pytest.raises(ConfigError, match=r"^model\.mixer\.num_kv_head: unknown key.*num_kv_heads"):
        schemes.model("rope", mixer=mixer_node(num_kv_head=2))
    with pytest.raises(ConfigError, match=r"^model\.widht"):
        schemes.model("rope", widht=3)


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    """A tokenizer of another size fails loudly on the first batch."""
    with pytest.raises(IndexError):
        schemes.model("rope")(torch.full((1, 3), VOCAB))
