"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): rotary positions on part of each
head, attention and MLP side by side, biases, an output matrix of its own.

Its q, k, v come a head at a time: rows (H, 3, D) where ours are (3, H, D).
"""

from typing import Any

from torch import Tensor

from zoo.blocks import Parallel, PreNorm
from zoo.decoder import Decoder
from zoo.hf.family import (
    Entry,
    Family,
    activation_of,
    check_plain,
    decoder,
    hidden_size,
    in_halves,
    mlp_node,
    one_dropout,
    with_all_heads,
    with_bias,
    with_biases,
)
from zoo.hf.rotary import rope_node, rope_parameters
from zoo.mlp import MLP
from zoo.norms import LayerNorm
from zoo.positions.rope import RoPE


class GPTNeoX(Family):
    """`GPTNeoXForCausalLM`, with `use_parallel_residual` or without."""

    model_type = "gpt_neox"
    architecture = "GPTNeoXForCausalLM"
    prefix = "gpt_neox."
    head = "embed_out.weight"

    def config_class(self) -> Any:
        from transformers import GPTNeoXConfig

        return GPTNeoXConfig

    def node(self, config: Any) -> dict[str, Any]:
        block = "Parallel" if config.use_parallel_residual else "PreNorm"
        return decoder(
            config=config,
            dropout=one_dropout(
                attention_dropout=config.attention_dropout, hidden_dropout=config.hidden_dropout
            ),
            position=rope_node(config),
            mixer={
                "_target_": "zoo.mixers.softmax.SoftmaxAttention",
                "num_kv_heads": None,
                "bias": config.attention_bias,
            },
            mlp=mlp_node(
                config.hidden_act, "hidden_act", config.intermediate_size, config.hidden_size
            ),
            norm={"_target_": "zoo.norms.LayerNorm", "eps": config.layer_norm_eps, "bias": True},
            block={"_target_": f"zoo.blocks.{block}", "_partial_": True},
        )

    def entries(self, model: Decoder, config: Any = None) -> list[Entry]:
        found = [
            Entry("embedding.weight", ("embed_in.weight",)),
            *with_bias("norm", "final_layer_norm"),
        ]
        mixer: Any = model.blocks[0].mixer
        H = mixer.num_heads
        bias = config.attention_bias if config is not None else mixer.qkv.bias is not None

        def read(x: Tensor) -> Tensor:
            return x.unflatten(0, (H, 3, -1)).transpose(0, 1).flatten(0, 2)

        def write(x: Tensor) -> Tensor:
            return x.unflatten(0, (3, H, -1)).transpose(0, 1).flatten(0, 2)

        for i in range(len(model.blocks)):
            ours, theirs = f"blocks.{i}.", f"layers.{i}."
            qkv, fused = f"{ours}mixer.qkv", f"{theirs}attention.query_key_value"
            project = with_bias(f"{ours}mixer.project", f"{theirs}attention.dense")
            kinds = ("weight", "bias") if bias else ("weight",)
            found += [Entry(f"{qkv}.{kind}", (f"{fused}.{kind}",), read, write) for kind in kinds]
            found += project[: len(kinds)]
            for mine, its in (
                ("mixer_norm", "input_layernorm"),
                ("mlp_norm", "post_attention_layernorm"),
                ("mlp.expand", "mlp.dense_h_to_4h"),
                ("mlp.project", "mlp.dense_4h_to_h"),
            ):
                found += with_bias(ours + mine, theirs + its)
        return found

    def config(self, model: Decoder) -> dict[str, Any]:
        self.check_mask(model)
        check_plain(model, position=RoPE, block=(PreNorm, Parallel), norm=LayerNorm, mlp=MLP)
        block: Any = model.blocks[0]
        return {
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": block.mixer.num_heads,
            "intermediate_size": hidden_size(block.mlp),
            "hidden_act": activation_of(block.mlp),
            "layer_norm_eps": model.norm.eps,
            "attention_dropout": model.dropout,
            "hidden_dropout": model.dropout,
            "attention_bias": block.mixer.qkv.bias is not None,
            "use_parallel_residual": type(block) is Parallel,
            **rope_parameters(model),
        }

    def own_tensors(self, model: Decoder) -> dict[str, Tensor]:
        state = in_halves(dict(model.state_dict()), model)
        return with_biases(with_all_heads(state, model))
