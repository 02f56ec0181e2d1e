"""GPT-2 (Radford et al. 2019), DistilGPT-2 and their kin: learned positions, LayerNorm, biases throughout.

Its matrices lie the other way round (in, out), and q, k, v are one matrix of 3 C columns.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.blocks import PreNorm
from zoo.decoder import Decoder
from zoo.hf.family import (
    Entry,
    Family,
    activation_of,
    check_plain,
    decoder,
    hidden_size,
    mlp_node,
    one_dropout,
    require,
    with_all_heads,
    with_bias,
    with_biases,
)
from zoo.mlp import MLP
from zoo.norms import LayerNorm
from zoo.positions.learned import Learned


class GPT2(Family):
    """`GPT2LMHeadModel`. Other scales of the scores than 1 / sqrt(D) are folded into W_q."""

    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"
    prefix = "transformer."
    head = "lm_head.weight"

    def config_class(self) -> Any:
        from transformers import GPT2Config

        return GPT2Config

    def node(self, config: Any) -> dict[str, Any]:
        require(not config.add_cross_attention, "add_cross_attention=true: it is no decoder alone")
        inner = config.n_inner or 4 * config.n_embd
        return decoder(
            config=config,
            dropout=one_dropout(
                resid_pdrop=config.resid_pdrop,
                embd_pdrop=config.embd_pdrop,
                attn_pdrop=config.attn_pdrop,
            ),
            position={
                "_target_": "zoo.positions.learned.Learned",
                "max_length": config.n_positions,
            },
            mixer={
                "_target_": "zoo.mixers.softmax.SoftmaxAttention",
                "num_kv_heads": None,
                "bias": True,
            },
            mlp=mlp_node(config.activation_function, "activation_function", inner, config.n_embd),
            norm={
                "_target_": "zoo.norms.LayerNorm",
                "eps": config.layer_norm_epsilon,
                "bias": True,
            },
        )

    def entries(self, model: Decoder, config: Any = None) -> list[Entry]:
        found = [
            Entry("embedding.weight", ("wte.weight",)),
            Entry("position.table.weight", ("wpe.weight",)),
            *with_bias("norm", "ln_f"),
        ]
        for i in range(len(model.blocks)):
            ours, theirs = f"blocks.{i}.", f"h.{i}."
            scale = 1.0 if config is None else _scale(config, i)
            qkv, c_attn = f"{ours}mixer.qkv", f"{theirs}attn.c_attn"
            found += [
                *with_bias(f"{ours}mixer_norm", f"{theirs}ln_1"),
                *with_bias(f"{ours}mlp_norm", f"{theirs}ln_2"),
                Entry(
                    f"{qkv}.weight",
                    (f"{c_attn}.weight",),
                    read=partial(_read_qkv, scale=scale),
                    write=_transposed,
                ),
                Entry(f"{qkv}.bias", (f"{c_attn}.bias",), read=partial(_read_qkv, scale=scale)),
            ]
            for mine, its in (
                ("mixer.project", "attn.c_proj"),
                ("mlp.expand", "mlp.c_fc"),
                ("mlp.project", "mlp.c_proj"),
            ):
                found += with_bias(ours + mine, theirs + its, read=_transposed, write=_transposed)
        return found

    def config(self, model: Decoder) -> dict[str, Any]:
        self.check_mask(model)
        check_plain(model, position=Learned, block=(PreNorm,), norm=LayerNorm, mlp=MLP)
        block: Any = model.blocks[0]
        return {
            "vocab_size": model.vocab_size,
            "n_positions": model.max_length,
            "n_embd": model.width,
            "n_layer": len(model.blocks),
            "n_head": block.mixer.num_heads,
            "n_inner": hidden_size(block.mlp),
            "activation_function": activation_of(block.mlp),
            "layer_norm_epsilon": model.norm.eps,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.dropout,
        }

    def own_tensors(self, model: Decoder) -> dict[str, Tensor]:
        return with_biases(with_all_heads(dict(model.state_dict()), model))


def _transposed(x: Tensor) -> Tensor:
    return x.T.contiguous()


def _scale(config: Any, layer: int) -> float:
    """By how much a layer's scores are larger than with 1 / sqrt(D)."""
    scale = 1.0 if config.scale_attn_weights else (config.n_embd // config.n_head) ** 0.5
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def _read_qkv(x: Tensor, *, scale: float) -> Tensor:
    """Output channels first, the queries' part times `scale`."""
    q, k, v = (x.T if x.dim() == 2 else x).chunk(3)
    return torch.cat((q * scale, k, v))
