"""What training with a decoder takes for granted: its loss, gradients, start, dropout, precision."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.zoo import oracle, schemes
from tests.zoo.schemes import MASKS, PRESETS, VOCAB, D, H, N, tokens
from zoo.bench import preset
from zoo.load import build
from zoo.mlp import GELU, SwiGLU

T = 37


# ---- the start


def test_tied_head_is_one_tensor() -> None:
    """Tying saves a table and sums two gradients; untied keeps both tables."""
    tied, free = schemes.model("rope"), schemes.model("rope", tie_embeddings=False)
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


# ---- the loss and its gradient


@pytest.mark.parametrize("vocab", [17, 300])
def test_loss_is_cross_entropy_of_the_logits(vocab: int) -> None:
    """The loss that is optimised, -100 left out, weights counted, against plain log-softmax."""
    model = schemes.model("rope", vocab_size=vocab).double()
    text = tokens(2, 12)
    targets = tokens(2, 12, seed=5)
    targets[0, 3:6] = -100
    logits = model(text)
    each = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    each = each.masked_fill(targets == -100, 0.0)
    mean, losses = model.loss(text, targets)
    assert not losses.requires_grad
    assert (losses - each).abs().max() <= 1e-6
    assert mean.item() == pytest.approx(
        float(each.detach().sum() / (targets != -100).sum()), rel=1e-6
    )
    expected = torch.autograd.grad(cross_entropy(logits.mT, targets), model.embedding.weight)[0]
    found = torch.autograd.grad(mean, model.embedding.weight)[0]
    assert oracle.closeness(found, expected) <= 1e-6


def test_weighted_loss() -> None:
    """Weights of the positions weigh their mean."""
    model = schemes.model("rope").double()
    text, targets = tokens(2, 12), tokens(2, 12, seed=5)
    targets[1, 2] = -100
    weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, losses = model.loss(text, targets, weights_BT=weights)
    counted = weights * (targets != -100)
    assert mean.item() == pytest.approx(float((losses * counted).sum() / counted.sum()), rel=1e-6)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize(
    "name, T",
    [
        *[(name, 25) for name in ("rope half", "xpos", "alibi", "t5", "kerple log")],
        *[(name, 25) for name in ("kerple power", "fire", "learned")],
        *[(name, 300) for name in ("rope", "xpos", "alibi")],
    ],
)
def test_gradients_are_those_of_the_loss(name: str, T: int, mask: str) -> None:
    """Every parameter, the learned biases included: slope of the loss along a random direction."""
    model = schemes.model(name, mask).double()
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    draw = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        return cross_entropy(model(text).mT, targets)

    parameters = list(model.named_parameters())
    gradients = torch.autograd.grad(loss(), [p for _, p in parameters])
    for group in ("position", "mixer.qkv", "mlp", "embedding"):
        chosen = [(p, g) for (n, p), g in zip(parameters, gradients) if group in n]
        if not chosen:
            continue
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


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["xpos", "t5", "fire", "gpt2"])
def test_checkpointed_gradients_are_identical(name: str, dropout: float) -> None:
    """Recomputing activations trades time for memory and nothing else, the dropout's draws included."""
    model = schemes.model(name, dropout=dropout).train()
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
    model = schemes.model("rope").train()
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
    model = schemes.model(name, dropout=0.4)
    plain = schemes.model(name)
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
    model = schemes.model(name, dropout=0.5)
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
    model = schemes.model(name, mask)
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
    model = schemes.model(name, context_length=600, num_layers=2)
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
    model = schemes.model(name).to(torch.bfloat16)
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
    model = schemes.model(name, num_layers=1).train()
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
        model = schemes.model(name, num_layers=3)
        found = [k for k, _ in model.named_parameters() if "position" in k]
        assert len(found) == count, name
        owners = [id(position) for _, position in model.layers()]
        assert len(set(owners)) == (1 if name == "t5" else 3)
