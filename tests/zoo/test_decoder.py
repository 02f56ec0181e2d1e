"""The decoder against one written by hand, and what training with it takes for granted."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.zoo import oracle
from tests.zoo.oracle import MASKS, PRESETS, SCHEMES, VOCAB, D, H, N, gelu, layer_norm, tokens
from zoo.bench import preset
from zoo.load import ConfigError, build
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
    model = oracle.model(name, mask).double()
    text = tokens(2, T)
    with torch.no_grad():
        found = model(text)
    expected = oracle.decoder(model, name, text, oracle.visible(mask, T))
    assert oracle.closeness(found, expected) <= 1e-10


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["rope", "xpos", "alibi", "kerple log"])
def test_grouped_query_attention(name: str, groups: int) -> None:
    """Each group of query heads reads its own keys and values, in the order of the heads."""
    model = oracle.model(name, "blockwise", mixer=mixer_node(num_kv_heads=groups)).double()
    text = tokens(2, T)
    with torch.no_grad():
        found = model(text)
    see = oracle.visible("blockwise", T)
    expected = oracle.decoder(model, name, text, see, groups=groups)
    assert oracle.closeness(found, expected) <= 1e-10


@pytest.mark.parametrize("name", list(SCHEMES))
def test_float32_is_float64_to_seven_digits(name: str) -> None:
    """A fast path of its own for float32 must compute the same thing."""
    model = oracle.model(name, "blockwise")
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
        B, L = text.shape
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
    model = oracle.model(
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


@pytest.mark.parametrize("vocab", [17, 300])
def test_loss_is_cross_entropy_of_the_logits(vocab: int) -> None:
    """The loss that is optimised, -100 left out, weights counted, against plain log-softmax."""
    model = oracle.model("rope", vocab_size=vocab).double()
    text = tokens(2, 12)
    targets = tokens(2, 12, seed=5)
    targets[0, 3:6] = -100
    logits = model(text)
    each = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    each = each.masked_fill(targets == -100, 0.0)
    mean, losses = model.loss(text, targets)
    assert not losses.requires_grad
    assert (losses - each).abs().max() <= 1e-6
    assert float(mean) == pytest.approx(float(each.sum() / (targets != -100).sum()), rel=1e-6)
    expected = torch.autograd.grad(cross_entropy(logits.mT, targets), model.embedding.weight)[0]
    found = torch.autograd.grad(mean, model.embedding.weight)[0]
    assert oracle.closeness(found, expected) <= 1e-6


def test_weighted_loss() -> None:
    """Weights of the positions weigh their mean."""
    model = oracle.model("rope").double()
    text, targets = tokens(2, 12), tokens(2, 12, seed=5)
    targets[1, 2] = -100
    weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, losses = model.loss(text, targets, weights_BT=weights)
    counted = weights * (targets != -100)
    assert float(mean) == pytest.approx(float((losses * counted).sum() / counted.sum()), rel=1e-6)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize(
    "name", ["rope half", "xpos", "alibi", "t5", "kerple log", "kerple power", "fire", "learned"]
)
def test_gradients_are_those_of_the_loss(name: str, mask: str) -> None:
    """Every parameter, the learned biases included: slope of the loss along a random direction."""
    model = oracle.model(name, mask).double()
    text, targets = tokens(2, 25), tokens(2, 25, seed=5)
    draw = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        return cross_entropy(model(text).mT, targets)

    parameters = list(model.named_parameters())
    gradients = torch.autograd.grad(loss(), [p for _, p in parameters])
    groups = (
        {"position", "mixer.qkv", "mlp"} if name not in ("rope half", "xpos", "alibi") else {"q"}
    )
    for group in groups:
        chosen = [(p, g) for (n, p), g in zip(parameters, gradients) if group in n]
        steps = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p, _ in chosen]
        slope = sum(float((g * s).sum()) for (_, g), s in zip(chosen, steps))
        size = 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -2):
                for (p, _), s in zip(chosen, steps):
                    p.add_(sign * size * s)
                values.append(float(loss()))
            for (p, _), s in zip(chosen, steps):
                p.add_(size * s)
        numeric = (values[0] - values[1]) / (2 * size)
        # Second-order differences: about size^2 of truncation, 1e-16/size of rounding.
        assert slope == pytest.approx(numeric, rel=1e-5, abs=1e-8), group
        assert abs(slope) > 1e-6


# ---- parts --------------------------------------------------------------------------------------


def test_tied_head_is_one_tensor() -> None:
    """Tying saves a table and sums two gradients; untied keeps both tables."""
    tied, free = oracle.model("rope"), oracle.model("rope", tie_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert free.head.weight is not free.embedding.weight
    extra = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert extra == VOCAB * H * D
    assert free.head.bias is None


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tied", [True, False])
def test_start_of_the_weights(name: str, tied: bool) -> None:
    """GPT-2's start: 0.02 at width 768 and as 1/sqrt(width), 1/sqrt(2 layers) onto the residual."""
    node = preset(name, 257)
    node.update(context_length=64, num_layers=3, width=192, num_heads=4, tie_embeddings=tied)
    torch.manual_seed(0)
    model = build(node, key="model")
    base = 0.02 * math.sqrt(768 / 192)
    for key, p in model.named_parameters():
        if "position" in key and "table.weight" not in key:
            continue
        if p.dim() < 2:
            assert (p == (1 if "norm" in key else 0)).all(), key
            continue
        std = base / math.sqrt(2 * 3) if key.endswith("project.weight") else base
        # Five standard errors of a standard deviation, std / sqrt(2 n), and of a mean, std / sqrt(n).
        assert abs(float(p.std()) - std) <= 5 * std / math.sqrt(2 * p.numel()), key
        assert abs(float(p.mean())) <= 5 * std / math.sqrt(p.numel()), key


def test_loss_starts_near_uniform() -> None:
    """A fresh model knows nothing: its loss is that of guessing, to within the logits' variance."""
    for name in PRESETS:
        node = preset(name, 257)
        node.update(context_length=64, num_layers=2, width=64, num_heads=2)
        torch.manual_seed(0)
        model = build(node, key="model")
        text = torch.randint(257, (4, 65), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = model(text[:, :-1])
            loss = float(cross_entropy(logits.mT, text[:, 1:]))
        variance = float(logits.var(-1).mean())
        assert abs(loss - math.log(257)) <= 0.05 + variance, name


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("bias", [False, True])
def test_gelu_by_hand(approximate: str, bias: bool) -> None:
    """The MLP of GPT-2, exact or with the tanh."""
    torch.manual_seed(0)
    mlp = GELU(12, expansion=3, approximate=approximate, bias=bias).double()  # type: ignore[arg-type]
    oracle.randomise(mlp)
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
    oracle.randomise(mlp)
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
    oracle.randomise(nn.ModuleDict({"norm": norm}))
    x = torch.randn(3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-2
    expected = layer_norm(x, norm.weight, norm.bias)
    assert (norm.bias is None) == (not bias)
    assert oracle.closeness(norm(x), expected) <= 1e-12


def test_rms_norm_by_hand() -> None:
    """x / rms(x) * weight, no mean taken off; in bf16 the mean square is not rounded to bf16."""
    norm = RMSNorm(9).double()
    oracle.randomise(nn.ModuleDict({"norm": norm}))
    x = torch.randn(3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    expected = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * norm.weight
    assert oracle.closeness(norm(x), expected) <= 1e-12
    wide = RMSNorm(4096).to(torch.bfloat16)
    ones = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert (wide(ones) == 1).all()


@pytest.mark.parametrize("mask", ["causal", "blockwise"])
def test_rms_norm_and_swiglu_in_the_decoder(mask: str) -> None:
    """The LLaMA shape composes: other parts, same decoder, and its cache."""
    model = oracle.model(
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


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["xpos", "t5", "fire", "gpt2"])
def test_checkpointed_gradients_are_identical(name: str, dropout: float) -> None:
    """Recomputing activations trades time for memory and nothing else, the dropout's draws included."""
    model = oracle.model(name, dropout=dropout).train()
    text, targets = tokens(2, N), tokens(2, N, seed=5)
    found = []
    for on in (False, True):
        model.checkpoint_activations = on
        model.zero_grad()
        torch.manual_seed(11)
        cross_entropy(model(text).mT, targets).backward()
        found.append({k: p.grad.clone() for k, p in model.named_parameters()})
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key]), key


def test_checkpointing_really_recomputes() -> None:
    """The switch must do something: every block runs once more in the backward pass."""
    model = oracle.model("rope").train()
    calls = []
    for block in model.blocks:
        block.mixer.register_forward_pre_hook(lambda *_: calls.append(1))
    model.checkpoint_activations = True
    loss = cross_entropy(model(tokens(1, N)).mT, tokens(1, N, seed=5))
    assert len(calls) == 2
    loss.backward()
    assert len(calls) == 4
    with torch.no_grad():
        model.eval()(tokens(1, N))
    assert len(calls) == 6


@pytest.mark.parametrize("name", ["xpos", "t5", "alibi", "gpt2"])
def test_dropout_in_training_only(name: str) -> None:
    """Evaluation must be the model without dropout; training must have it, differently each time."""
    model = oracle.model(name, dropout=0.4)
    plain = oracle.model(name)
    plain.load_state_dict(model.state_dict())
    text = tokens(2, N)
    with torch.no_grad():
        assert torch.equal(model(text), plain(text))
        model.train()
        a, b = model(text), model(text)
        assert not torch.equal(a, b)
        torch.manual_seed(3)
        c = model(text)
        torch.manual_seed(3)
        assert torch.equal(model(text), c)


@pytest.mark.parametrize("name", ["rope", "t5", "alibi"])
def test_dropout_of_the_attention_weights(name: str) -> None:
    """The first query sees one key: its weight, 1, is dropped or doubled, and in evaluation kept."""
    model = oracle.model(name, dropout=0.5)
    mixer, position = model.blocks[0].mixer, model.position
    q = torch.randn(64, H, 3, D, generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(q)
    torch.manual_seed(0)
    with torch.no_grad():
        kept = mixer.mix(q, q, ones, position, model.mask, None)
        dropped = mixer.train().mix(q, q, ones, position, model.mask, None)
    assert (kept - 1).abs().max() <= 1e-6
    first = dropped[:, :, 0, 0]
    assert ((first == 0) | ((first - 2).abs() <= 1e-6)).all()
    # 256 draws of one half: five standard errors.
    assert abs(float((first == 0).double().mean()) - 0.5) <= 5 * 0.5 / math.sqrt(256)


@pytest.mark.parametrize("part", [GELU, SwiGLU])
def test_dropout_of_what_the_mlp_adds(part) -> None:
    """On the way to the residual stream, what is kept scaled up."""
    torch.manual_seed(0)
    mlp = part(64, dropout=0.5)
    x = torch.randn(1, 50, 64)
    found = mlp.train()(x)
    # 3200 draws of one half: five standard errors.
    assert abs(float((found == 0).double().mean()) - 0.5) <= 5 * 0.5 / math.sqrt(3200)
    assert oracle.closeness(found[found != 0], 2 * mlp.eval()(x)[found != 0]) <= 1e-6


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("name", PRESETS)
def test_no_token_sees_a_later_one(name: str, mask: str | None) -> None:
    """Causality: a later token never changes an earlier logit, not in the last bit."""
    model = oracle.model(name, mask)
    text = tokens(1, 33)
    with torch.no_grad():
        base = model(text)
        for t in (1, 8, 16, 31, 32):
            other = text.clone()
            other[0, t:] = (other[0, t:] + 1 + torch.arange(33 - t)) % VOCAB
            assert torch.equal(model(other)[:, :t], base[:, :t])
            assert not torch.equal(model(other)[:, t], base[:, t])


@pytest.mark.parametrize("name", PRESETS)
def test_bf16_autocast_stays_close(name: str) -> None:
    """Mixed precision trains the same model: angles and biases far along are not rounded to bf16.

    Rounding: 2^-9 relative each, some ten roundings a layer added at random, so about 1% of the
    logits' rms; a position rounded to bf16 beyond 256 would be off by whole radians.
    """
    model = oracle.model(name, context_length=600, num_layers=2)
    text = tokens(1, 600)
    with torch.no_grad():
        exact = model.double()(text)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.float()(text)
    for part in (slice(0, 100), slice(500, 600)):
        error = (found.double() - exact)[:, part].square().mean().sqrt()
        assert float(error / exact[:, part].square().mean().sqrt()) <= 0.03


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_in_bf16_decodes(name: str) -> None:
    """Cast as a whole for inference: runs, stays finite, and its cache agrees with its full pass."""
    model = oracle.model(name).to(torch.bfloat16)
    text = tokens(2, 30)
    with torch.no_grad():
        full = model(text)
        cache = model.new_cache()
        found = torch.cat([model(part, cache=cache) for part in text.split([9, 1, 20], 1)], 1)
    assert full.dtype == torch.bfloat16
    assert full.isfinite().all()
    error = (found.double() - full.double()).square().mean().sqrt()
    assert float(error / full.double().square().mean().sqrt()) <= 0.03


@pytest.mark.parametrize("name", PRESETS)
def test_one_batch_can_be_learned(name: str) -> None:
    """Every preset trains: a batch learned by heart, every parameter moved."""
    model = oracle.model(name, num_layers=1).train()
    text = tokens(2, N + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    losses = []
    for _ in range(25):
        loss, _ = model.loss(text[:, :-1], text[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    for key, p in model.named_parameters():
        assert not torch.equal(p, before[key]), key


def test_same_seed_same_model() -> None:
    """A run repeats from its seed."""
    for name in PRESETS:
        node = preset(name, VOCAB)
        node.update(context_length=N, num_layers=2, width=H * D, num_heads=H)
        pair = []
        for _ in range(2):
            torch.manual_seed(7)
            pair.append(build(node, key="model").state_dict())
        assert all(torch.equal(pair[0][k], pair[1][k]) for k in pair[0])


def test_layers_own_what_they_should() -> None:
    """T5 shares its table over the layers; KERPLE and FIRE have parameters in each."""
    for name, count in (("t5", 1), ("kerple", 2 * 3), ("fire", 6 * 3)):
        model = oracle.model(name, num_layers=3)
        found = [k for k, _ in model.named_parameters() if "position" in k]
        assert len(found) == count, name
        owners = [id(position) for _, position in model.layers()]
        assert len(set(owners)) == (1 if name == "t5" else 3)


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
        oracle.model("rope", **given)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_named() -> None:
    """A misspelt key of a part is refused with the names that would do."""
    with pytest.raises(ConfigError, match=r"^model\.mixer\.num_kv_head: unknown key.*num_kv_heads"):
        oracle.model("rope", mixer=mixer_node(num_kv_head=2))
    with pytest.raises(ConfigError, match=r"^model\.widht"):
        oracle.model("rope", widht=3)


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    """A tokenizer of another size fails loudly on the first batch."""
    with pytest.raises(IndexError):
        oracle.model("rope")(torch.full((1, 3), VOCAB))
