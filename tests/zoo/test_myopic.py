"""The myopic gradient against its definition: for each position, recompute with all others detached."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.attention import masks
from tests.zoo import schemes
from tests.zoo.schemes import assembled, tokens
from zoo.generate import generate
from zoo.hf import load_pretrained
from zoo.load import ConfigError, build
from zoo.mixers.myopic import MyopicAttention
from zoo.mixers.myopic_past import check_past, past_states
from zoo.mixers.softmax import SoftmaxAttention

T = 13
SCHEMES = [
    *[("learned", "causal"), ("none", "causal"), ("rope half", "window"), ("rope", "blockwise")],
    *[("xpos", "blockwise"), ("xpos", "causal"), ("alibi", "blockwise"), ("t5", "window")],
    *[("kerple log", "causal"), ("fire", "causal"), ("sandwich", "blockwise")],
]


class OthersDetached(SoftmaxAttention):
    """Only position `row` is alive: the others' inputs, or with `cut` = "kv" their keys and values, are
    constants. Dense scores, plain autograd."""

    row, cut = 0, "hidden"

    def forward(self, x, position, mask, cache=None):
        T = x.shape[1]
        own = torch.arange(T)[:, None] == self.row
        q, k, v = self.heads(torch.where(own, x, x.detach()) if self.cut == "hidden" else x)
        if self.cut == "kv":
            k, v = (torch.where(own, y, y.detach()) for y in (k, v))
        visible = mask.dense(T)
        visible = visible[:, None] if visible.dim() == 3 else visible
        scores = assembled(position, q, k).masked_fill(~visible, -torch.inf)
        weights = scores.softmax(-1)
        if self.training and self.dropout:
            weights = dropout(weights, self.dropout)
        repeated = v.repeat_interleave(self.num_heads // self.num_kv_heads, 1)
        return self.output(weights @ repeated)


def mixer(cls=MyopicAttention, **options):
    node = {"_target_": f"{cls.__module__}.{cls.__qualname__}", "_partial_": True, "bias": True}
    return {"mixer": node | options}


def models(name="learned", mask="causal", *, groups=2, seed=0, layers=3, dropout=0.0, **variants):
    """The vanilla model in float64, and one myopic model of the same weights for each variant."""
    shared = dict(num_layers=layers, dropout=dropout, seed=seed)
    options = {"num_kv_heads": groups}
    vanilla = schemes.model(name, mask, **mixer(SoftmaxAttention, **options), **shared).double()
    others = []
    for variant, beta in variants.items():
        made = schemes.model(
            name, mask, **mixer(variant=variant, beta=beta, **options), **shared
        ).double()
        made.load_state_dict(vanilla.state_dict())
        others.append(made)
    return vanilla, *others


def gradients(model, text: Tensor, targets: Tensor, **options) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model.head(model.hidden(text, **options))
    cross_entropy(logits.mT, targets).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_position_at_a_time(vanilla, cut: str, text, targets, seed=None, **options):
    """The definition: the sum over positions i of the gradient of loss i, all others detached."""
    model = copy.deepcopy(vanilla)
    for block in model.blocks:
        block.mixer.__class__ = OthersDetached
    counted = int((targets != -100).sum())
    model.zero_grad()
    for row in range(text.shape[1]):
        for block in model.blocks:
            block.mixer.row, block.mixer.cut = row, cut
        if seed is not None:
            torch.manual_seed(seed)
        logits = model.head(model.hidden(text, **options))[:, row]
        (cross_entropy(logits, targets[:, row], reduction="sum") / counted).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_same(found: dict, expected: dict, bound: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= bound, name


# ---- the definition


@pytest.mark.parametrize("name, mask", SCHEMES)
def test_gradient_of_every_parameter_is_the_definition(name: str, mask: str) -> None:
    """Every position scheme and mask, grouped heads: an error here is another training."""
    vanilla, hidden, kv = models(name, mask, hidden=0.0, kv=0.0)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    targets[0, 4] = -100
    full = gradients(vanilla, text, targets)
    for model, cut in ((hidden, "hidden"), (kv, "kv")):
        expected = one_position_at_a_time(vanilla, cut, text, targets)
        found = gradients(model, text, targets)
        assert_same(found, expected)
        assert (found["embedding.weight"] - full["embedding.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_gradient_of_a_checkpoint_is_the_definition(family: str, tmp_path) -> None:
    """The paper's models: GPT-2's shape, and Pythia's parallel residual and partial rotary."""
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    transformers.set_seed(0)
    shape = dict(vocab_size=19, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
    if family == "gpt2":
        stock = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=24, **shape))
    else:
        sizes = dict(num_hidden_layers=3, num_attention_heads=4, hidden_size=32)
        more = dict(intermediate_size=64, max_position_embeddings=24, **shape)
        stock = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **more))
    for name, p in stock.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.3)
    stock.save_pretrained(tmp_path)
    vanilla = load_pretrained(tmp_path, dtype=torch.float64)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    for cut in ("hidden", "kv"):
        model = load_pretrained(tmp_path, dtype=torch.float64, myopic=cut)
        expected = one_position_at_a_time(vanilla, cut, text, targets)
        assert_same(gradients(model, text, targets), expected)


def test_packed_documents_and_bidirectional_prefixes() -> None:
    """Packed texts stay apart, and a prefix that sees ahead is cut like any other position."""
    vanilla, hidden, kv = models("rope", hidden=0.0, kv=0.0)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    documents = torch.tensor([[0] * 5 + [1] * 8, [3] * 9 + [4] * 4])
    for options in ({"documents_BT": documents}, {"mask": masks.prefix(torch.tensor([4, 9]))}):
        for model, cut in ((hidden, "hidden"), (kv, "kv")):
            expected = one_position_at_a_time(vanilla, cut, text, targets, **options)
            assert_same(gradients(model, text, targets, **options), expected)


@pytest.mark.parametrize("name", ["learned", "rope"])
def test_dropout_is_one_draw_for_live_and_detached(name: str) -> None:
    """GPT-2 trains with dropout: a second draw for the detached states would be another network."""
    vanilla, hidden, kv = models(name, layers=2, dropout=0.3, hidden=0.0, kv=0.0)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    vanilla.train()
    for model, cut in ((hidden.train(), "hidden"), (kv.train(), "kv")):
        torch.manual_seed(7)
        found = gradients(model, text, targets)
        assert_same(found, one_position_at_a_time(vanilla, cut, text, targets, seed=7))


@pytest.mark.parametrize("variant", ["hidden", "kv"])
def test_beta_is_a_dose(variant: str) -> None:
    """1 is vanilla; in one layer half a dose lies half way."""
    (vanilla,) = models(layers=1)
    none, half, all_ = (models(layers=1, **{variant: beta})[1] for beta in (0.0, 0.5, 1.0))
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    full, nothing = gradients(vanilla, text, targets), gradients(none, text, targets)
    assert_same(gradients(all_, text, targets), full)
    middle = {name: (full[name] + nothing[name]) / 2 for name in full}
    assert_same(gradients(half, text, targets), middle)


# ---- what must follow from it


def test_forward_is_vanilla_bit_for_bit() -> None:
    """A myopically trained model is evaluated as the plain one: any difference would be the gap's."""
    for name, mask in SCHEMES:
        for dtype in (torch.float32, torch.float64):
            vanilla, *others = models(name, mask, layers=2, hidden=0.0, kv=0.0)
            text = tokens(2, 80)
            want = vanilla.to(dtype)(text)
            for model in others:
                assert torch.equal(model.to(dtype)(text), want), (name, mask, dtype)
    vanilla, *others = models("rope", layers=2, hidden=0.0, kv=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        want = vanilla.float()(text)
        for model in others:
            assert torch.equal(model.float()(text), want)


def test_no_position_learns_from_the_future() -> None:
    """Other targets after position t change no gradient of positions up to t, not by one bit."""
    vanilla, hidden, kv = models("learned", hidden=0.0, kv=0.0)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    other = targets.clone()
    other[:, 6:] = tokens(2, T, seed=9)[:, 6:]
    key = "position.table.weight"
    for model in (hidden, kv):
        change = gradients(model, text, targets)[key] - gradients(model, text, other)[key]
        assert (change[:6] == 0).all() and change[6:T].abs().max() > 0
    change = gradients(vanilla, text, targets)[key] - gradients(vanilla, text, other)[key]
    assert change[:6].abs().max() > 1e-3


def test_position_without_loss_learns_nothing() -> None:
    """A masked prompt gets no myopic gradient at all (multiplication, §4.3)."""
    _, hidden, kv = models("learned", hidden=0.0, kv=0.0)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    targets[:, :4] = -100
    for model in (hidden, kv):
        rows = gradients(model, text, targets)["position.table.weight"]
        assert (rows[:4] == 0).all() and (rows[4:T] != 0).any(-1).all()


def test_key_bias_tells_the_variants_apart() -> None:
    """A key bias moves no output. Read by others it stays at zero gradient; owned by its writer not."""
    vanilla, hidden, kv = models("learned", hidden=0.0, kv=0.0, groups=4)
    text, targets = tokens(2, T), tokens(2, T, seed=5)

    def key_bias(model) -> float:
        found = gradients(model, text, targets)
        keys = [found[f"blocks.{i}.mixer.qkv.bias"].chunk(3)[1] for i in range(3)]
        return max(float(key.abs().max()) for key in keys)

    assert key_bias(vanilla) <= 1e-14 and key_bias(hidden) <= 1e-14
    assert key_bias(kv) > 1e-4


def test_last_block_and_shared_parts() -> None:
    """`hidden` is vanilla in the last block but for its first norm; `kv` differs from `hidden` in the
    last block's keys and values alone."""
    vanilla, hidden, kv = models("learned", hidden=0.0, kv=0.0, groups=4)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    full, h, w = (gradients(m, text, targets) for m in (vanilla, hidden, kv))
    for name in full:
        if not name.startswith(("blocks.2.", "norm.")):
            continue
        if "mixer_norm" in name:
            assert (h[name] - full[name]).abs().max() > 1e-4
        else:
            assert (h[name] - full[name]).abs().max() <= 1e-12, name
        written = "qkv" in name
        q = slice(0, h[name].shape[0] // 3) if written else slice(None)
        assert (w[name][q] - h[name][q]).abs().max() <= 1e-12, name
        if written:
            assert (w[name] - h[name]).abs().max() > 1e-4


def test_one_token_has_no_past() -> None:
    """With a single position every variant is vanilla, gradient and all."""
    vanilla, *others = models(hidden=0.0, kv=0.0, zero=0.0)
    text, targets = tokens(3, 1), tokens(3, 1, seed=5)
    expected = gradients(vanilla, text, targets)
    for model in others:
        assert_same(gradients(model, text, targets), expected, 1e-12)


# ---- ways of training


@pytest.mark.parametrize("variant", ["hidden", "kv"])
def test_checkpointing_and_compiling_change_nothing(variant: str) -> None:
    """Recomputed or compiled layers must detach the same things."""
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    _, model = models("alibi", layers=2, **{variant: 0.0})
    expected = gradients(model, text, targets)
    model.train().checkpoint_activations = True
    assert_same(gradients(model, text, targets), expected, 1e-12)
    model.checkpoint_activations = False
    torch.compiler.reset()
    compiled = torch.compile(model.hidden, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    cross_entropy(model.head(compiled(text)).mT, targets).backward()
    assert_same({n: p.grad for n, p in model.named_parameters()}, expected, 1e-12)


@pytest.mark.parametrize("variant", ["hidden", "kv"])
def test_bfloat16_autocast(variant: str) -> None:
    """At most twice the noise that bf16 brings into the ordinary gradient of the same parameter."""
    text, targets = tokens(2, 60), tokens(2, 60, seed=5)
    noise: list[dict[str, float]] = []
    for model in models("rope", layers=2, **{variant: 0.0}):
        exact = gradients(model, text, targets)
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(model.float(), text, targets)
        noise.append({name: float((found[name] - g).abs().max()) for name, g in exact.items()})
    for name, error in noise[1].items():
        assert error <= 2 * noise[0][name], name


@pytest.mark.parametrize("variant", ["hidden", "kv", "zero"])
@pytest.mark.parametrize("name", ["learned", "rope", "alibi"])
def test_no_square_matrix_is_held(variant: str, name: str) -> None:
    """Long contexts fit: no tensor of T x T elements appears, forward or backward."""
    long = 600

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple | list) else (result,):
                if isinstance(x, Tensor):
                    self.largest = max(self.largest, x.numel() if x.stride() else 0)
            return result

    _, model = models(name, layers=1, groups=4, **{variant: 0.0})
    x = torch.randn(1, long, model.width, dtype=torch.float64, requires_grad=True)
    block, position = model.layers()[0]
    with Watch() as watch:
        y = block.mixer(x, position, model.mask)
        y.sum().backward()
    assert watch.largest < long * long


# ---- another past


@pytest.mark.parametrize(
    "name, mask", [("learned", "causal"), ("rope", "blockwise"), ("t5", "causal")]
)
def test_frozen_past_is_read_at_every_other_position(name: str, mask: str) -> None:
    """Local myopia: others' keys and values are the frozen model's, one's own are live."""
    frozen, live = models(name, mask, frozen=0.0, layers=2)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    past = past_states(frozen, text)
    same = live.hidden(text, past=past)
    assert (same - frozen.hidden(text)).abs().max() <= 1e-12  # theta* read by theta*
    schemes.randomise(live, seed=3)
    found = gradients(live, text, targets, past=past)
    assert all(p.grad is None for p in frozen.parameters())

    class OtherPast(SoftmaxAttention):
        def forward(self, x, position, mask, cache=None):
            q, k, v = self.heads(x)
            own = torch.eye(T, dtype=torch.bool)
            e = assembled(position, q, cache.k_BGTD)
            e = torch.where(own, assembled(position, q, k), e)
            p = e.masked_fill(~mask.dense(T), -torch.inf).softmax(-1)
            r = self.num_heads // self.num_kv_heads
            past_v, v = (y.repeat_interleave(r, 1) for y in (cache.v_BGTD, v))
            return self.output((p * ~own) @ past_v + (p * own) @ v)

    for block in live.blocks:
        block.mixer.__class__ = OtherPast
    assert_same(found, gradients(live, text, targets, past=past))


@pytest.mark.parametrize("name, mask", [("rope", "causal"), ("alibi", "blockwise")])
@pytest.mark.parametrize("variant", ["kv", "frozen", "zero"])
def test_long_texts_take_another_way_to_the_same_gradient(
    variant: str, name: str, mask: str
) -> None:
    """Beyond a few hundred tokens the kernel of kernels/myopic does the work, here checked densely."""
    long = 300

    class Dense(SoftmaxAttention):
        def forward(self, x, position, mask, cache=None):
            q, k, v = self.heads(x)
            if variant == "kv":
                past = k.detach(), v.detach()
            elif variant == "zero":
                past = torch.zeros_like(k), torch.zeros_like(v)
            else:
                past = cache.k_BGTD, cache.v_BGTD
            own = torch.eye(long, dtype=torch.bool)
            e = torch.where(own, assembled(position, q, k), assembled(position, q, past[0]))
            p = e.masked_fill(~mask.dense(long), -torch.inf).softmax(-1)
            r = self.num_heads // self.num_kv_heads
            past_v, v = (y.repeat_interleave(r, 1) for y in (past[1], v))
            return self.output((p * ~own) @ past_v + (p * own) @ v)

    frozen, model = models(name, mask, layers=2, **{variant: 0.0})
    schemes.randomise(model, seed=3)
    text, targets = tokens(1, long), tokens(1, long, seed=5)
    options = {"past": past_states(frozen, text)} if variant == "frozen" else {}
    found = gradients(model, text, targets, **options)
    for block in model.blocks:
        block.mixer.__class__ = Dense
    assert_same(found, gradients(model, text, targets, **options))


def test_frozen_past_under_checkpointing() -> None:
    """The past of a step is recomputed with, whatever forward passes came in between."""
    frozen, live = models("rope", frozen=0.0, layers=2)
    schemes.randomise(live, seed=3)
    text, targets = tokens(2, T), tokens(2, T, seed=5)
    expected = gradients(live, text, targets, past=past_states(frozen, text))
    live.train().checkpoint_activations = True
    live.zero_grad()
    loss = cross_entropy(live.head(live.hidden(text, past=past_states(frozen, text))).mT, targets)
    live.hidden(targets, past=past_states(frozen, targets))
    loss.backward()
    assert_same({n: p.grad for n, p in live.named_parameters()}, expected, 1e-12)


def test_zero_sees_itself_alone() -> None:
    """The transformer bigram: no other token can change what a position predicts, cached or not."""
    _, model = models("rope", zero=0.0, layers=2)
    text = tokens(2, T)
    other = text.clone()
    other[:, :6] = (other[:, :6] + 1) % schemes.VOCAB
    assert torch.equal(model(text)[:, 6:], model(other)[:, 6:])
    assert not torch.equal(model(text)[:, :6], model(other)[:, :6])
    with torch.no_grad():
        cache = model.new_cache()
        steps = [model(text[:, t : t + 1], cache=cache) for t in range(T)]
    assert (torch.cat(steps, 1) - model(text)).abs().max() <= 1e-12


def test_own_state_variants_generate_as_the_plain_model() -> None:
    """Decoding with a cache knows nothing of gradients."""
    vanilla, hidden, kv = models("learned", hidden=0.0, kv=0.0, layers=2)
    prompt = tokens(1, 4)

    def greedy(model) -> Tensor:
        return torch.stack([*generate(model, prompt, max_new_tokens=6, temperature=0.0)])

    for model in (hidden, kv):
        assert torch.equal(greedy(model), greedy(vanilla))


# ---- mistakes


def test_mistakes_are_named() -> None:
    """One line that says which key, and what to do."""
    for options, line in (
        ({"variant": "both"}, "variant: must be"),
        ({"beta": 1.5}, r"beta: must be in \[0, 1\]"),
        ({"variant": "zero", "beta": 0.5}, "beta: must be 0 with variant=zero"),
    ):
        with pytest.raises(ConfigError, match=line):
            build(mixer(**options)["mixer"], key="model.mixer")(width=8, num_heads=2)
    _, live = models("learned", frozen=0.0, layers=2)
    with pytest.raises(ValueError, match="task=myopia task"):
        live(tokens(1, 4))
    deeper = models("learned", layers=3)[0]
    with pytest.raises(
        ConfigError, match=r"frozen: runs/a is of another shape \(num_layers is 3 th"
    ):
        check_past(live, deeper, "runs/a")
    rotary = models("rope", layers=2)[0]
    with pytest.raises(ConfigError, match="has RoPE positions, this model Learned"):
        check_past(live, rotary, "runs/a")
    wide = models("learned", layers=2, groups=4)[0]
    with pytest.raises(ValueError, match="freeze a model of the same shape"):
        live.hidden(tokens(1, 4), past=past_states(wide, tokens(1, 4)))
