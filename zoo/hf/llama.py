"""Llama (Touvron et al. 2023) and models of its shape: rotary positions, RMSNorm, SwiGLU, grouped
queries, no biases unless asked for.

Its q, k, v, and its gate and up matrices, lie apart; ours are one each.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.blocks import PreNorm
from zoo.decoder import Decoder
from zoo.hf.family import (
    Entry,
    Family,
    check_plain,
    decoder,
    hidden_size,
    in_halves,
    one_dropout,
    require,
)
from zoo.hf.rotary import rope_node, rope_parameters
from zoo.mlp import SwiGLU
from zoo.norms import RMSNorm
from zoo.positions.rope import RoPE


class Llama(Family):
    """`LlamaForCausalLM`."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    prefix = "model."
    head = "lm_head.weight"

    def config_class(self) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig

    def node(self, config: Any) -> dict[str, Any]:
        width, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or width // heads
        require(
            head_dim * heads == width,
            f"head_dim={head_dim} is not hidden_size={width} over {heads} heads",
        )
        require(
            config.hidden_act in ("silu", "swish"),
            f"hidden_act={config.hidden_act} is not known here; silu is",
        )
        return decoder(
            config=config,
            dropout=one_dropout(attention_dropout=config.attention_dropout, residual=0.0),
            position=rope_node(config),
            mixer={
                "_target_": "zoo.mixers.softmax.SoftmaxAttention",
                "num_kv_heads": config.num_key_value_heads,
                "bias": getattr(config, "attention_bias", False),
            },
            mlp={
                "_target_": "zoo.mlp.SwiGLU",
                "expansion": config.intermediate_size / width,
                "multiple_of": 1,
                "bias": getattr(config, "mlp_bias", False),
            },
            norm={"_target_": "zoo.norms.RMSNorm", "eps": config.rms_norm_eps},
        )

    def entries(self, model: Decoder, config: Any = None) -> list[Entry]:
        found = [
            Entry("embedding.weight", ("embed_tokens.weight",)),
            Entry("norm.weight", ("norm.weight",)),
        ]
        block: Any = model.blocks[0]
        H, G, D = block.mixer.num_heads, block.mixer.num_kv_heads, block.mixer.head_dim

        def apart(x: Tensor) -> tuple[Tensor, ...]:
            return x.split((H * D, G * D, G * D))

        def together(*parts: Tensor) -> Tensor:
            return torch.cat(parts)

        def halves(x: Tensor) -> tuple[Tensor, ...]:
            return x.chunk(2)

        attention = ("weight",) if block.mixer.qkv.bias is None else ("weight", "bias")
        mlp = ("weight",) if block.mlp.expand.bias is None else ("weight", "bias")
        for i in range(len(model.blocks)):
            ours, theirs = f"blocks.{i}.", f"layers.{i}."
            found += [
                Entry(f"{ours}mixer_norm.weight", (f"{theirs}input_layernorm.weight",)),
                Entry(f"{ours}mlp_norm.weight", (f"{theirs}post_attention_layernorm.weight",)),
            ]
            for kind in attention:
                qkv = tuple(f"{theirs}self_attn.{x}_proj.{kind}" for x in "qkv")
                found += [
                    Entry(f"{ours}mixer.qkv.{kind}", qkv, together, apart),
                    Entry(f"{ours}mixer.project.{kind}", (f"{theirs}self_attn.o_proj.{kind}",)),
                ]
            for kind in mlp:
                expand = tuple(f"{theirs}mlp.{x}_proj.{kind}" for x in ("gate", "up"))
                found += [
                    Entry(f"{ours}mlp.expand.{kind}", expand, together, halves),
                    Entry(f"{ours}mlp.project.{kind}", (f"{theirs}mlp.down_proj.{kind}",)),
                ]
        return found

    def config(self, model: Decoder) -> dict[str, Any]:
        self.check_mask(model)
        check_plain(model, position=RoPE, block=(PreNorm,), norm=RMSNorm, mlp=SwiGLU)
        block: Any = model.blocks[0]
        said = rope_parameters(model)
        require(
            said["rope_parameters"].pop("partial_rotary_factor") == 1.0,
            "it rotates a part of each head only",
        )
        return {
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": block.mixer.num_heads,
            "num_key_value_heads": block.mixer.num_kv_heads,
            "intermediate_size": hidden_size(block.mlp),
            "hidden_act": "silu",
            "rms_norm_eps": model.norm.eps,
            "attention_bias": block.mixer.qkv.bias is not None,
            "attention_dropout": model.dropout,
            "mlp_bias": block.mlp.expand.bias is not None,
            **said,
        }

    def own_tensors(self, model: Decoder) -> dict[str, Tensor]:
        return in_halves(dict(model.state_dict()), model)
