"""A decoder of the zoo as a model of transformers: what an exported folder is loaded with.

`python -m zoo.export` copies this file into the folder, beside the modules that the model is built from.
It imports nothing of the project: config.zoo says what to build, and names modules of its own folder
with a leading dot.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class ZooConfig(PretrainedConfig):
    """`zoo` holds the model's parts: {_target_: .module.Class, argument: …}, calls within calls."""

    model_type = "transformer_zoo"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, zoo: dict[str, Any] | None = None, **settings: Any):
        self.zoo = zoo or {}
        self.use_cache = settings.pop("use_cache", True)
        super().__init__(**settings)


def build(node: Any) -> Any:
    """What a node of `config.zoo` describes, its children first."""
    if isinstance(node, list | tuple):
        return [build(child) for child in node]
    if not isinstance(node, dict):
        return node
    parts = {name: build(child) for name, child in node.items() if not name.startswith("_")}
    if "_target_" not in node:
        return parts
    module, _, name = node["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module, __package__), name)
    return functools.partial(target, **parts) if node.get("_partial_") else target(**parts)


class ZooCache:
    """The zoo's cache in the terms of `generate`; it lets go of what no later token can see.

    Rows that are filled up alike at their start share one, which never sees the filling: each text
    is read as if it stood alone, whatever the position scheme and mask.
    """

    is_compileable = False

    def __init__(self, decoder: nn.Module, padding: list[int]):
        self.groups = [
            (rows, amount, decoder.new_cache())  # type: ignore[operator]
            for amount, rows in _alike(padding)
        ]
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, those that were let go of included."""
        return self.length

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: row b goes on from what row beam_idx[b] held, a beam of the same text."""
        chosen = beam_idx.tolist()
        for rows, _, cache in self.groups:
            place = torch.tensor([rows.index(chosen[row]) for row in rows])
            cache.reorder(place.to(beam_idx.device))

    @property
    def size(self) -> int:
        """Bytes of the keys and values in reach."""
        return sum(cache.size for _, _, cache in self.groups)


def _alike(padding: list[int]) -> list[tuple[int, list[int]]]:
    """(amount, rows) for each amount of padding there is."""
    return [
        (amount, [row for row, own in enumerate(padding) if own == amount])
        for amount in sorted(set(padding))
    ]


class ZooForCausalLM(PreTrainedModel, GenerationMixin):
    """Next-token logits (B, T, V); `decoder` is the zoo's own module."""

    config_class = ZooConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _tied_weights_keys = {"decoder.head.weight": "decoder.embedding.weight"}
    _is_stateful = True  # its cache cannot be cropped, as assisted generation would

    def __init__(self, config: ZooConfig, decoder: Any = None):
        """decoder: in place of a new one of `config.zoo`."""
        super().__init__(config)
        # On the CPU even where transformers builds on no device: tables that are no weights stay.
        with torch.device("cpu"):
            self.decoder = build(config.zoo) if decoder is None else decoder
        if decoder is None:
            for module in self.decoder.modules():
                module._non_persistent_buffers_set.clear()  # transformers would leave them unset
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the decoder has initialised itself."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes its own

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: ZooCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """attention_mask: 0 at the start of a row where it is only filled up. logits_to_keep: of the
        last tokens alone; 0: all. A cache is kept only where no gradient is recorded."""
        use_cache = self.config.use_cache if use_cache is None else use_cache
        rows = input_ids.shape[0]
        padding = [0] * rows
        if attention_mask is not None and attention_mask.dim() == 2:
            padding = (attention_mask.cumsum(-1) == 0).sum(-1).tolist()
        if past_key_values is None and use_cache and not torch.is_grad_enabled():
            past_key_values = ZooCache(self.decoder, padding)
        hidden_BTC = self._hidden(input_ids, padding, past_key_values)
        logits_BTV = self.decoder.head(hidden_BTC[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1])
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            past_key_values=past_key_values,  # type: ignore[arg-type]
        )
        return output if return_dict is not False else output.to_tuple()

    def _hidden(self, tokens_BT: Tensor, padding: list[int], past: ZooCache | None) -> Tensor:
        """What the head reads, (B, T, C); zeros where a row is only filled up."""
        groups = past.groups if past else [(rows, n, None) for n, rows in _alike(padding)]
        read = 0 if past is None else past.length
        if past is not None:
            past.length += tokens_BT.shape[1]
        if len(groups) == 1 and groups[0][1] <= read:
            return self.decoder.hidden(tokens_BT, cache=groups[0][2])
        table = self.decoder.embedding.weight
        hidden_BTC = table.new_zeros(*tokens_BT.shape, table.shape[1])
        for rows, amount, cache in groups:
            begin = max(0, amount - read)
            if begin < tokens_BT.shape[1]:
                part = self.decoder.hidden(tokens_BT[rows, begin:], cache=cache)
                hidden_BTC = hidden_BTC.to(part.dtype)
                hidden_BTC[rows, begin:] = part
        return hidden_BTC
