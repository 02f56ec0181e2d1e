"""Momentum attention is the paper's formula, wherever and however the model is run."""

import pytest
import torch
from torch import Tensor

from kernels.attention.masks import prefix
from tests.zoo import oracle, schemes
from tests.zoo.schemes import MASKS, D, H, N, tokens
from zoo.load import ConfigError
from zoo.masks import causal
from zoo.mixers.momentum import Momentum
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.none import NoPosition

ETAS = [0.1, 0.5, 0.9, 0.99]
LONG = 53


def node(**options) -> dict:
    return {"_target_": "zoo.mixers.momentum.Momentum", "_partial_": True, **options}


def position() -> NoPosition:
    return NoPosition(**schemes.shape())


def mixer(width: int = H * D, seed: int = 0, **options) -> Momentum:
    torch.manual_seed(seed)
    return Momentum(width=width, num_heads=H, **options).double()


def by_the_formula(module: Momentum, x_BTC: Tensor, etas: list[Tensor]) -> Tensor:
    """Eq.: attention + sum over i < t of eta^(t-i) v_i, written as one (T, T) matrix a head."""
    q, k, v = module.heads(x_BTC)
    T, repeat = x_BTC.shape[1], H // module.num_kv_heads
    k, v = (z.repeat_interleave(repeat, dim=1) for z in (k, v))
    t = torch.arange(T)
    past = t[:, None] > t
    scores = (q @ k.mT / D**0.5).masked_fill(~(past | (t[:, None] == t)), -torch.inf)
    fading = torch.stack([eta ** (t[:, None] - t).clamp(min=1) * past for eta in etas])
    y = (scores.softmax(-1) + fading.repeat_interleave(repeat, dim=0)) @ v
    return module.project(y.transpose(1, 2).flatten(2))


def test_the_papers_hand_example():
    """T = 3, one channel, values 1, 2, 3, eta 0.5: not the current value, nearest weight eta, no
    (1 - eta). Any of the three mistakes gives other numbers."""
    module = Momentum(width=1, num_heads=1, eta=0.5).double()
    with torch.no_grad():
        module.qkv.weight.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
        module.project.weight.fill_(1.0)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(1, 3, 1)
    scheme = NoPosition(num_heads=1, head_dim=1, width=1, context_length=3)
    y = module(x, scheme, causal(context_length=3))
    assert y.flatten().tolist() == [1.0, 2.0, 3.25]


@pytest.mark.parametrize("groups", [H, 2])
@pytest.mark.parametrize("eta", ETAS)
def test_equals_the_definition_with_gradients(eta, groups):
    """What the paper writes, to 1e-12, and every gradient of it, the learned eta's included."""
    module = mixer(eta=eta, learned=True, per_head=True, num_kv_heads=groups)
    x = torch.randn(2, 40, H * D, dtype=torch.float64, requires_grad=True)
    found = module(x, position(), causal(context_length=N))
    expected = by_the_formula(module, x, list(module.eta()))
    assert oracle.closeness(found, expected) <= 1e-12
    upstream = torch.randn_like(found)
    inputs = [x, *module.parameters()]
    for a, b in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
    ):
        assert oracle.closeness(a, b) <= 1e-12


@pytest.mark.parametrize("eta", ETAS)
def test_fixed_eta_is_the_learned_one_at_its_start(eta):
    fixed, learned = mixer(eta=eta), mixer(eta=eta, learned=True)
    listed = mixer(eta=[eta] * H)
    x = torch.randn(2, 40, H * D, dtype=torch.float64)
    y = [m(x, position(), causal(context_length=N)) for m in (fixed, learned, listed)]
    assert oracle.closeness(y[1], y[0]) <= 1e-6  # the logit was rounded to float32 once
    assert oracle.closeness(y[2], y[0]) <= 1e-12
    assert not list(fixed.parameters())[2:], "a fixed eta adds no parameter"


def test_zero_is_plain_attention():
    """The control of every comparison: eta = 0 must be softmax attention bit for bit."""
    plain = SoftmaxAttention(width=H * D, num_heads=H)
    none = Momentum(width=H * D, num_heads=H, eta=0.0)
    none.load_state_dict(plain.state_dict())
    x = torch.randn(2, 40, H * D)
    args = (x, position(), causal(context_length=N))
    assert torch.equal(plain(*args), none(*args))


@pytest.mark.parametrize("eta", [0.3, [0.1, 0.5, 0.7, 0.9]])
def test_normalised_weights_add_up_to_one(eta):
    """Far from the start a constant value comes back as itself."""
    module = mixer(eta=eta, normalised=True)
    v = torch.ones(1, H, 400, D, dtype=torch.float64)
    m = module.past(v, causal(context_length=N), None)
    assert torch.allclose(m[:, :, -1], v[:, :, -1], rtol=1e-12) and m[:, :, 0].eq(0).all()
    first = module.values[0]
    assert torch.allclose(
        m[0, 0, 1], torch.tensor(D * [1 - first], dtype=torch.float64), rtol=1e-12
    )


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2, "eta": [0.4, 0.8]}], ids=["", "G2"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", ["learned", "rope", "xpos", "t5"])
def test_decoding_equals_the_whole(name, mask, options):
    """Text generated token by token, or a prompt in chunks, under any position scheme and mask."""
    model = schemes.model(name, mask, mixer=node(**options)).double()
    text = tokens(2, LONG)
    with torch.no_grad():
        full = model(text)
        for chunks in ([1] * LONG, [9, 1, 1, 13, 2, 1, 20, 6]):
            cache = model.new_cache()
            found = torch.cat([model(part, cache=cache) for part in text.split(chunks, 1)], 1)
            assert oracle.closeness(found, full) <= 1e-10
    state = cache.layers[0].state
    groups = options.get("num_kv_heads", H)
    assert state is not None and state.shape == (2, groups, D), "one vector a head, whatever T"


def test_beams_carry_their_own_sum():
    model = schemes.model("rope", "causal", mixer=node(eta=0.9)).double()
    text, order = tokens(3, 21), torch.tensor([2, 0, 0])
    cache = model.new_cache()
    with torch.no_grad():
        model(text[:, :12], cache=cache)
        cache.reorder(order)
        found = model(text[:, 12:], cache=cache)
        full = model(torch.cat((text[order, :12], text[:, 12:]), 1))[:, 12:]
    assert oracle.closeness(found, full) <= 1e-10


@pytest.mark.parametrize("learned", [False, True])
def test_packed_documents_are_read_alone(learned):
    """A document of a packed batch must get what it gets by itself, outputs and gradients."""
    model = schemes.model("rope", "causal", mixer=node(eta=0.9, learned=learned)).double()
    lengths = [7, 1, 16, 9]
    text = tokens(1, sum(lengths))
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    packed = model(text, documents_BT=ids)
    alone = torch.cat([model(part) for part in text.split(lengths, 1)], 1)
    assert oracle.closeness(packed, alone) <= 1e-10
    upstream = torch.randn_like(packed)
    parameters = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(packed, parameters, upstream),
        torch.autograd.grad(alone, parameters, upstream),
    )
    for a, b in pairs:
        assert oracle.closeness(a, b) <= 1e-10


def test_documents_while_decoding():
    """Left-padded prompts, and a boundary exactly between two chunks: neither leaks into the sum."""
    model = schemes.model("rope", "causal", mixer=node(eta=0.9)).double()
    ids = torch.tensor([[0] * 4 + [1] * 20, [1] * 11 + [2] * 13])
    rows = tokens(2, 24)
    with torch.no_grad():
        expected = model(rows, documents_BT=ids)
        for chunks in ([4, 7, 13], [1] * 24, [11, 1, 12]):
            cache, found, end = model.new_cache(), [], 0
            for part in rows.split(chunks, 1):
                end += part.shape[1]
                found.append(model(part, cache=cache, documents_BT=ids[:, :end]))
            assert oracle.closeness(torch.cat(found, 1), expected) <= 1e-10
        assert oracle.closeness(expected[0, 4:], model(rows[:1, 4:])[0]) <= 1e-10


def test_half_precision_sums_stay_exact():
    """Under bf16 autocast at 0.99 the running sum is kept in float32, in training and decoding."""
    model = schemes.model("rope", "causal", mixer=node(eta=0.99))
    text = tokens(1, 400)
    with torch.no_grad():
        full = model(text)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(text)
            cache = model.new_cache()
            for part in text.split(50, 1):
                model(part, cache=cache)
    assert cache.layers[0].state.dtype == torch.float32
    assert half.isfinite().all() and oracle.closeness(half.float(), full) < 0.1


def test_it_trains_by_name(train):
    """`model=xpos mixer=momentum` is a legal sentence, and the run loads again."""
    from zoo.load import load_run

    run = train("model=xpos", "mixer=momentum", "model.mixer.learned=true", "max_steps=4")
    assert run.code == 0, run.err
    loaded = load_run(run.folder).model.blocks[0].mixer
    assert isinstance(loaded, Momentum) and loaded.eta().item() != 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"eta": 1.0}, "eta: must be in"),
        ({"eta": [0.1, 0.2]}, "eta: 2 values for 4 key-value heads"),
        ({"eta": 0.0, "learned": True}, "eta: must be above 0"),
        ({"eta": 0.0, "normalised": True}, "eta: must be above 0"),
        ({"eta": "half"}, "eta: must be"),
    ],
)
def test_bad_values_are_named(options, says):
    with pytest.raises(ConfigError, match=says):
        schemes.model("rope", mixer=node(**options))


def test_bidirectional_attention_is_refused():
    with pytest.raises(ValueError, match="causal masks only"):
        mixer()(torch.zeros(1, 4, H * D).double(), position(), prefix(3))
