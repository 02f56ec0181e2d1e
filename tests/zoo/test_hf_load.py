"""Checkpoints of transformers give the same logits in the zoo, and go back as the stock class.

Every checkpoint is made here, from random weights: none is fetched.
"""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from zoo.hf import Checkpoint, load_pretrained, save_pretrained
from zoo.load import ConfigError, build

V, T = 61, 24


def gpt2(**more):
    small = dict(vocab_size=V, n_positions=32, n_embd=24, n_layer=3, n_head=3)
    return transformers.GPT2Config(**small | more)


def neox(**more):
    small = dict(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
    small |= dict(intermediate_size=48, max_position_embeddings=32)
    return transformers.GPTNeoXConfig(**small | more)


LLAMA = dict(
    vocab_size=V,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=16,
    num_key_value_heads=2,
)


def llama(**more):
    return transformers.LlamaConfig(**LLAMA | more)


def rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, "factor": 4.0, **more}}


CASES = {
    "gpt2": gpt2(),
    "gpt2, its own hidden size": gpt2(n_inner=40),
    "gpt2, exact gelu and eps": gpt2(activation_function="gelu", layer_norm_epsilon=1e-3),
    "gpt2, relu": gpt2(activation_function="relu"),
    "gpt2, silu": gpt2(activation_function="silu"),
    "gpt2, an output matrix of its own": gpt2(tie_word_embeddings=False),
    "gpt2, scores by layer": gpt2(scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False),
    "gpt2, upcast scores": gpt2(reorder_and_upcast_attn=True),
    "pythia": neox(),
    "pythia, one after the other": neox(use_parallel_residual=False, rotary_pct=0.5),
    "pythia, whole heads, tied, no biases": neox(
        rotary_pct=1.0, tie_word_embeddings=True, attention_bias=False, hidden_act="gelu_new"
    ),
    "pythia, stretched": neox(rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "llama": llama(),
    "llama, one key head, tied": llama(num_key_value_heads=1, tie_word_embeddings=True),
    "llama, biases": llama(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2),
    "llama 3.1": llama(
        **rope(
            "llama3",
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        )
    ),
    "llama, yarn": llama(**rope("yarn", original_max_position_embeddings=16, beta_fast=2.0)),
    "llama, dynamic": llama(**rope("dynamic")),
    "mistral": transformers.MistralConfig(**LLAMA, sliding_window=7),
    "mistral, no window": transformers.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
}
CLASSES = {
    "gpt2": transformers.GPT2LMHeadModel,
    "gpt_neox": transformers.GPTNeoXForCausalLM,
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
}


def stock(config) -> nn.Module:
    """A model of transformers in float64 whose every parameter is random, biases and norms too."""
    torch.manual_seed(0)
    model = CLASSES[config.model_type](config).double().eval()
    for name, parameter in model.named_parameters():
        centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, centre, 0.25)
    return model


class WideRotary(nn.Module):
    """A rotary embedding of transformers, which rounds to float32 on the way, without the rounding."""

    def __init__(self, theirs: nn.Module, ours):
        super().__init__()
        self.theirs, self.ours = theirs, ours

    def forward(self, x, position_ids):
        self.theirs(x, position_ids)  # a dynamic rule sets its frequencies here
        theta = self.ours.frequencies(position_ids.shape[-1])
        torch.testing.assert_close(self.theirs.inv_freq.double(), theta, rtol=2e-6, atol=0)
        angles = position_ids[..., None].double() * theta
        angles = torch.cat((angles, angles), -1)
        size = self.theirs.attention_scaling
        return angles.cos() * size, angles.sin() * size


def widened(model: nn.Module, ours) -> nn.Module:
    """A copy of a stock model that stays in float64 throughout: its rotary angles and its RMSNorm."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if "RotaryEmbedding" in type(child).__name__:
                setattr(parent, name, WideRotary(child, ours.position))
            elif "RMSNorm" in type(child).__name__:
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


def tokens(length: int = T) -> torch.Tensor:
    return torch.randint(V, (2, length), generator=torch.Generator().manual_seed(1))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A saved stock model, and what the zoo makes of its folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    theirs = stock(CASES[request.param])
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder, dtype=torch.float64), folder


@torch.no_grad()
def test_logits_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    logits = ours(tokens())
    assert difference(logits, widened(theirs, ours)(tokens()).logits) < 1e-10
    # As it is, transformers rounds angles and RMS norms to float32.
    assert difference(logits, theirs(tokens()).logits) < 1e-5


@torch.no_grad()
def test_written_back_transformers_loads_the_same_logits(pair, tmp_path):
    theirs, ours, folder = pair
    architecture = save_pretrained(ours, tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert type(again).__name__ == architecture
    assert difference(widened(again.eval(), ours)(tokens()).logits, ours(tokens())) < 1e-10
    assert (
        difference(load_pretrained(tmp_path, dtype=torch.float64)(tokens()), ours(tokens())) < 1e-12
    )
    if architecture == type(theirs).__name__ and not getattr(
        theirs.config, "scale_attn_by_inverse_layer_idx", False
    ):
        before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_hub_s_own_gpt2_file_has_bare_names_and_old_buffers(tmp_path):
    """gpt2's file says `wte.weight`, and `h.0.attn.bias` for a causal mask: neither may matter."""
    theirs = stock(gpt2())
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    bare = {name.removeprefix("transformer."): x for name, x in load_file(path).items()}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32) for i in range(3)}
    save_file(bare, path, metadata={"format": "pt"})
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert difference(ours(tokens()), theirs(tokens()).logits) < 1e-10


def test_pythia_s_own_file_calls_its_head_embed_out(tmp_path):
    theirs = stock(neox())
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    renamed = {n.replace("lm_head", "embed_out"): x for n, x in load_file(path).items()}
    renamed["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(renamed, path, metadata={"format": "pt"})
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert difference(ours(tokens()), theirs(tokens()).logits) < 1e-5


def test_configs_of_years_ago_are_understood(tmp_path):
    """The Hub's Pythia and Llama 2 still say rotary_pct and rope_scaling.type."""
    pythia = {"model_type": "gpt_neox", "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 1}
    pythia |= {"num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 32}
    pythia |= {"rotary_pct": 0.25, "rotary_emb_base": 5000, "use_parallel_residual": True}
    old = {"model_type": "llama", **LLAMA, "rms_norm_eps": 1e-5, "rope_theta": 5000.0}
    old |= {"rope_scaling": {"type": "linear", "factor": 2.0}}
    for config in (pythia, old):
        (tmp_path / "config.json").write_text(json.dumps(config))
        position = Checkpoint(tmp_path).node["position"]
        assert position["base"] == 5000
        if config is pythia:
            assert position["fraction"] == 0.25
        else:
            assert position["scaling"] == {
                "_target_": "zoo.positions.scaling.Linear",
                "factor": 2.0,
            }


def test_weights_in_several_files(tmp_path):
    theirs = stock(neox())
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert difference(ours(tokens()), theirs(tokens()).logits) < 1e-5


def test_dtype_is_float32_unless_asked_for(tmp_path):
    stock(gpt2()).half().save_pretrained(tmp_path)
    assert load_pretrained(tmp_path).embedding.weight.dtype == torch.float32
    wanted = load_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in wanted.parameters()} == {torch.bfloat16}


def test_padding_of_the_vocabulary_is_kept(tmp_path):
    """Pythia pads its vocabulary to a multiple of 128; the padded rows count in the softmax."""
    theirs = stock(neox(vocab_size=128))
    theirs.save_pretrained(tmp_path)
    assert load_pretrained(tmp_path)(tokens()).shape == (2, T, 128)


MODELS = {
    "learned, no biases": {},
    "learned, shared keys": {"mixer": {"num_kv_heads": 1}, "mlp": {"bias": True}},
    "rope": {"position": {"_target_": "zoo.positions.rope.RoPE"}},
    "rope, shared keys, part of a head": {
        "position": {"_target_": "zoo.positions.rope.RoPE", "fraction": 0.5},
        "mixer": {"num_kv_heads": 2, "bias": True},
        "block": {"_target_": "zoo.blocks.Parallel", "_partial_": True},
    },
    "rope, rms, swiglu": {
        "position": {"_target_": "zoo.positions.rope.RoPE"},
        "mixer": {"num_kv_heads": 2},
        "norm": {"_target_": "zoo.norms.RMSNorm"},
        "mlp": {"_target_": "zoo.mlp.SwiGLU", "approximate": None},
    },
    "rope, yarn": {
        "position": {
            "_target_": "zoo.positions.rope.RoPE",
            "scaling": {"_target_": "zoo.positions.scaling.YaRN", "factor": 2.0},
        }
    },
}


def of_the_zoo(name: str):
    """A model as the zoo builds it, every parameter random, in float64."""
    parts = {
        "position": {"_target_": "zoo.positions.learned.Learned"},
        "mixer": {"_target_": "zoo.mixers.softmax.SoftmaxAttention"},
        "mlp": {"_target_": "zoo.mlp.GELU", "approximate": "tanh"},
        "norm": {"_target_": "zoo.norms.LayerNorm"},
        "mask": {"_target_": "zoo.masks.causal"},
    }
    for part, changes in MODELS[name].items():
        parts[part] = {**parts.get(part, {}), **changes}
    if parts["mlp"]["_target_"].endswith("SwiGLU"):
        parts["mlp"].pop("approximate")
    node = {name: {**part, "_partial_": True} for name, part in parts.items()}
    shape = dict(vocab_size=V, context_length=32, num_layers=2, width=32, num_heads=4)
    model = build({"_target_": "zoo.decoder.Decoder", **shape, **node}).double().eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, float(parameter.dim() == 1), 0.25)
    return model


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_of_the_zoo_become_stock_models(name, tmp_path):
    """What the stock class lacks (no biases, shared keys, interleaved pairs) is written in its terms."""
    ours = of_the_zoo(name)
    save_pretrained(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert difference(widened(theirs.eval(), ours)(tokens()).logits, ours(tokens())) < 1e-10


REFUSED = {
    "another architecture": (transformers.OPTConfig(), "opt"),
    "an activation": (gpt2(activation_function="quick_gelu"), "activation_function=quick_gelu"),
    "cross attention": (gpt2(add_cross_attention=True), "add_cross_attention"),
    "dropouts that differ": (gpt2(attn_pdrop=0.3), "attn_pdrop=0.3"),
    "head width": (llama(head_dim=16), "head_dim=16"),
    "a gate": (llama(hidden_act="gelu"), "hidden_act=gelu"),
    "yarn, not truncated": (
        llama(**rope("yarn", original_max_position_embeddings=16, truncate=False)),
        "truncate",
    ),
    "longrope": (
        llama(
            **rope(
                "longrope",
                original_max_position_embeddings=16,
                short_factor=[1.0] * 4,
                long_factor=[2.0] * 4,
            )
        ),
        "longrope",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_refused_in_one_line(name, tmp_path):
    config, word = REFUSED[name]
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=word) as refusal:
        load_pretrained(tmp_path)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_a_given_dropout_stands_in_for_rates_that_differ(tmp_path):
    stock(gpt2(attn_pdrop=0.3)).save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, dropout=0.2).dropout == 0.2


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        load_pretrained(tmp_path)
    gpt2().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ConfigError, match="damaged"):
        load_pretrained(tmp_path)
    stock(gpt2()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"h\.1\.mlp\.c_fc\.weight"):
        load_pretrained(tmp_path)
    stock(gpt2()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 99}))
    with pytest.raises(ConfigError, match=r"\(61, 24\)"):
        load_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        load_pretrained(str(tmp_path.name + "-nowhere"))


def test_a_model_without_a_stock_class_is_refused_with_the_way_out(tmp_path):
    shape = dict(vocab_size=V, context_length=32, num_layers=1, width=32, num_heads=4)
    parts = {
        "position": "zoo.positions.alibi.ALiBi",
        "mixer": "zoo.mixers.softmax.SoftmaxAttention",
        "mlp": "zoo.mlp.GELU",
        "norm": "zoo.norms.LayerNorm",
        "mask": "zoo.masks.causal",
    }
    node = {name: {"_target_": target, "_partial_": True} for name, target in parts.items()}
    with pytest.raises(ConfigError, match=r"ALiBi.*zoo\.export"):
        save_pretrained(build({"_target_": "zoo.decoder.Decoder", **shape, **node}), tmp_path)
