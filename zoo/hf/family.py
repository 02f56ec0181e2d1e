"""What one architecture of transformers is in the zoo's terms: its config, and where each weight goes.

C width, H query heads, G key heads, D head width, T rows of a table of positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks import PreNorm
from zoo.decoder import Decoder
from zoo.mixers.myopic import MyopicAttention
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU, ReLU, SiLU
from zoo.positions.rope import RoPE


class Misfit(Exception):
    """Why a model is none of a family's."""


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Entry:
    """One tensor of the zoo, and the tensors of a checkpoint that hold the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    read: Callable[..., Tensor] = _same  # of theirs
    write: Callable[[Tensor], Tensor | tuple[Tensor, ...]] = _same


def with_bias(
    ours: str, theirs: str, *, read: Callable[..., Tensor] = _same, write: Callable = _same
) -> list[Entry]:
    """The entries of a module with a weight, which `read` and `write` rearrange, and a bias."""
    return [
        Entry(f"{ours}.weight", (f"{theirs}.weight",), read, write),
        Entry(f"{ours}.bias", (f"{theirs}.bias",)),
    ]


class Family:
    """One architecture. Subclasses say what differs."""

    model_type: str  # in config.json
    architecture: str  # the class of transformers
    prefix: str  # of the names in a checkpoint; base models leave it out
    head: str  # the output matrix, where it is not the embedding

    def config_class(self) -> Any:
        """The class of transformers that knows this config's defaults and older spellings."""
        raise NotImplementedError

    def node(self, config: Any) -> dict[str, Any]:
        """The config node that `zoo.load.build` makes the model from. Misfit for what the zoo lacks."""
        raise NotImplementedError

    def entries(self, model: Decoder, config: Any = None) -> list[Entry]:
        """Every tensor. `config`: of the checkpoint that is read."""
        raise NotImplementedError

    def config(self, model: Decoder) -> dict[str, Any]:
        """The config of the stock class that computes what `model` does. Misfit where none does."""
        raise NotImplementedError

    def check_mask(self, model: Decoder) -> None:
        """Misfit where the model's mask is not the family's."""
        require(model.mask.is_plain_causal, "its mask is not causal attention to everything before")

    def own_tensors(self, model: Decoder) -> dict[str, Tensor]:
        """The model's tensors, rearranged so that the stock class can hold them."""
        return dict(model.state_dict())


def decoder(
    *, config: Any, dropout: float, position: dict, mixer: dict, mlp: dict, norm: dict, **more: Any
) -> dict[str, Any]:
    """The node of a decoder, from a config of transformers and the parts."""
    parts = {"position": position, "mixer": mixer, "mlp": mlp, "norm": norm}
    return {
        "_target_": "zoo.decoder.Decoder",
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "num_layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "num_heads": config.num_attention_heads,
        **{name: {**part, "_partial_": True} for name, part in parts.items()},
        "mask": {"_target_": "zoo.masks.causal", "_partial_": True},
        "tie_embeddings": bool(config.tie_word_embeddings),
        "dropout": dropout,
    } | more


def one_dropout(**rates: float | None) -> float:
    """The rate that all share; Misfit where they differ: the zoo has one for all places."""
    values = {float(rate or 0) for rate in rates.values()}
    if len(values) > 1:
        said = ", ".join(f"{name}={rate}" for name, rate in rates.items())
        raise Misfit(f"{said} differ, and a decoder has one rate; give dropout=")
    return values.pop()


# Names of transformers' activations -> the node of an MLP with it; the first of equals is written.
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu": {"_target_": "zoo.mlp.GELU", "approximate": "none"},
    "gelu_new": {"_target_": "zoo.mlp.GELU", "approximate": "tanh"},
    "gelu_pytorch_tanh": {"_target_": "zoo.mlp.GELU", "approximate": "tanh"},
    "relu": {"_target_": "zoo.mlp.ReLU"},
    "silu": {"_target_": "zoo.mlp.SiLU"},
    "swish": {"_target_": "zoo.mlp.SiLU"},
}


def mlp_node(activation: str, key: str, inner: int, width: int) -> dict[str, Any]:
    """An MLP of `inner` hidden units, biases included; `key` names the setting."""
    if activation not in ACTIVATIONS:
        raise Misfit(f"{key}={activation} is not known here; {', '.join(ACTIVATIONS)} are")
    return {**ACTIVATIONS[activation], "expansion": inner / width, "bias": True}


def activation_of(mlp: nn.Module) -> str:
    """The name that transformers has for what an MLP computes."""
    if type(mlp) is GELU:
        return "gelu" if mlp.approximate == "none" else "gelu_new"
    if type(mlp) is ReLU:
        return "relu"
    if type(mlp) is SiLU:
        return "silu"
    raise Misfit(f"its MLP is {type(mlp).__name__}")


def hidden_size(mlp: nn.Module) -> int:
    """The hidden units of an MLP of `zoo.mlp`."""
    return mlp.project.in_features  # type: ignore[union-attr,return-value]


def require(condition: bool, reason: str) -> None:
    """Misfit with the reason where the condition does not hold."""
    if not condition:
        raise Misfit(reason)


def check_plain(model: Decoder, *, position: type, block: tuple, norm: type, mlp: type) -> None:
    """Misfit where a part is not one that the family has, exactly that class."""
    require(type(model.position) is position, f"its positions are {type(model.position).__name__}")
    require(type(model.norm) is norm, f"its norm is {type(model.norm).__name__}")
    for layer in model.blocks:
        require(type(layer) in block, f"its blocks are {type(layer).__name__}")
        assert isinstance(layer, PreNorm)
        # Myopic training changes gradients; the forward pass is that of softmax attention.
        mixer = layer.mixer
        myopic = isinstance(mixer, MyopicAttention) and mixer.variant in ("hidden", "kv")
        require(
            type(mixer) is SoftmaxAttention or myopic, f"its mixer is {type(layer.mixer).__name__}"
        )
        require(isinstance(layer.mlp, mlp), f"its MLP is {type(layer.mlp).__name__}")


def with_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict where each weight of a block and of the last norm has a bias, zeros where it had none."""
    for name in [n for n in state if n.endswith(".weight")]:
        bias = name.removesuffix("weight") + "bias"
        if name.startswith("blocks.") or name == "norm.weight":
            state.setdefault(bias, state[name].new_zeros(state[name].shape[0]))
    return state


def with_all_heads(state: dict[str, Tensor], model: Decoder) -> dict[str, Tensor]:
    """A state dict where each query head has its own copy of the keys and values that it shares."""
    for i, layer in enumerate(model.blocks):
        mixer: Any = layer.mixer
        H, G, D = mixer.num_heads, mixer.num_kv_heads, mixer.head_dim
        if H == G:
            continue
        for kind in ("weight", "bias"):
            name = f"blocks.{i}.mixer.qkv.{kind}"
            if name in state:
                heads = state[name].unflatten(0, (H + 2 * G, D))
                q, k, v = heads.split((H, G, G))
                k, v = (x.repeat_interleave(H // G, dim=0) for x in (k, v))
                state[name] = torch.cat((q, k, v)).flatten(0, 1)
    return state


def in_halves(state: dict[str, Tensor], model: Decoder) -> dict[str, Tensor]:
    """A state dict whose rotary pairs are channels (i, i + D/2), where they were (2i, 2i + 1)."""
    rope = model.position
    if not isinstance(rope, RoPE) or rope.layout == "half":
        return state
    R = rope.rotated
    order = torch.cat(
        (torch.arange(0, R, 2), torch.arange(1, R, 2), torch.arange(R, rope.head_dim))
    )
    for i, layer in enumerate(model.blocks):
        mixer: Any = layer.mixer
        turned = mixer.num_heads + mixer.num_kv_heads
        for kind in ("weight", "bias"):
            name = f"blocks.{i}.mixer.qkv.{kind}"
            if name in state:
                heads = state[name].unflatten(0, (-1, mixer.head_dim)).clone()
                heads[:turned] = heads[:turned][:, order.to(heads.device)]
                state[name] = heads.flatten(0, 1)
    return state
