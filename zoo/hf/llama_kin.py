"""Llama's shape under other names: Mistral (Jiang et al. 2023), with a sliding window, and Qwen2 (Yang et
al. 2024), with biases on q, k, v."""

from typing import Any

import torch

from zoo.decoder import Decoder
from zoo.hf.family import Entry, Misfit, require
from zoo.hf.llama import Llama


class Mistral(Llama):
    """`MistralForCausalLM`, its window the mask; without one it is a Llama."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"

    def config_class(self) -> Any:
        from transformers import MistralConfig

        return MistralConfig

    def node(self, config: Any) -> dict[str, Any]:
        node = super().node(config)
        if config.sliding_window is not None:
            window = {"_target_": "zoo.masks.sliding_window", "window": config.sliding_window}
            node["mask"] = {**window, "_partial_": True}
        return node

    def check_mask(self, model: Decoder) -> None:
        mask = model.mask
        alone = mask.is_causal and not mask.blocks and not mask.per_sample
        require(alone and mask.window is not None, "its mask is not a sliding window")

    def config(self, model: Decoder) -> dict[str, Any]:
        said = super().config(model)
        for name in ("attention_bias", "mlp_bias"):
            require(not said.pop(name), "it has biases")
        return said | {"sliding_window": model.mask.window}


class Qwen2(Llama):
    """`Qwen2ForCausalLM`. It goes back as a Llama with biases, which computes the same."""

    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"

    def config_class(self) -> Any:
        from transformers import Qwen2Config

        return Qwen2Config

    def node(self, config: Any) -> dict[str, Any]:
        windowed = "sliding_attention" in config.layer_types
        require(not windowed, "use_sliding_window=true: layers have windows of their own")
        node = super().node(config)
        return node | {"mixer": {**node["mixer"], "bias": True}}

    def entries(self, model: Decoder, config: Any = None) -> list[Entry]:
        def absent() -> torch.Tensor:
            return torch.zeros(model.width)

        return [
            Entry(entry.ours, (), absent) if entry.ours.endswith("mixer.project.bias") else entry
            for entry in super().entries(model, config)
        ]

    def config(self, model: Decoder) -> dict[str, Any]:
        raise Misfit("written as llama")
