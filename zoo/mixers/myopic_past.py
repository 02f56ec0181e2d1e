"""The past of another model: what `variant: frozen` attends to at every position but its own.

    past = past_states(frozen, tokens)
    loss, _ = model.loss(tokens, targets, past=past)        model: mixer=myopic, variant frozen

The frozen model's keys and values are taken before any rotation, as a cache keeps them, in eval mode
and without gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.decoder import Decoder
from zoo.load import ConfigError


@dataclass(frozen=True)
class Past:
    """Keys and values of one layer, (B, G, T, D), not rotated."""

    k_BGTD: Tensor
    v_BGTD: Tensor


@torch.no_grad()
def past_states(
    frozen: Decoder, tokens_BT: Tensor, *, documents_BT: Tensor | None = None
) -> list[Past]:
    """One `Past` a layer, for `Decoder.hidden(past=…)`."""
    pasts: list[Past] = []

    def keep(mixer, inputs) -> None:
        _, k, v = mixer.heads(inputs[0])
        pasts.append(Past(k, v))

    hooks = [block.mixer.register_forward_pre_hook(keep) for block in frozen.blocks]  # type: ignore[union-attr,operator]
    was_training = frozen.training
    try:
        frozen.eval().hidden(tokens_BT, documents_BT=documents_BT)
    finally:
        frozen.train(was_training)
        for hook in hooks:
            hook.remove()
    return pasts


def check_past(model: Decoder, frozen: Decoder, source: object) -> None:
    """Raises ConfigError, in one line, unless frozen's states fit where model's own stand."""

    def shape(decoder: Decoder) -> dict[str, int | None]:
        mixer = decoder.blocks[0].mixer
        return {
            "num_layers": len(decoder.blocks),
            "num_kv_heads": getattr(mixer, "num_kv_heads", None),
            "head_dim": getattr(mixer, "head_dim", None),
            "vocab_size": decoder.vocab_size,
        }

    here, there = shape(model), shape(frozen)
    for name, value in here.items():
        if there[name] != value:
            raise ConfigError(
                f"frozen: {source} is of another shape ({name} is {there[name]} there, {value} here); "
                "give the run of a vanilla model of the same shape"
            )
    schemes = [type(decoder.position).__name__ for decoder in (model, frozen)]
    if schemes[0] != schemes[1]:
        raise ConfigError(
            f"frozen: {source} has {schemes[1]} positions, this model {schemes[0]}; "
            "give the run of a vanilla model of the same position scheme"
        )
