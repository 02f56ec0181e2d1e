"""`pretrained=gpt2`: a run that starts from a checkpoint of transformers.

The checkpoint decides what its weights fix (width, layers, heads, positions, norm, MLP, vocabulary), the
run the rest: context length, dropout, a mask other than causal, and the mixer with its own options.
"""

from typing import Any

from torch import nn

from tasks.data.tokenizers import Bytes
from tasks.errors import UserError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def with_checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run, its model that of the checkpoint that `pretrained` names, if it names one.

    The tokenizer is the checkpoint's own too, unless the run chose another than bytes (the default)
    or the checkpoint comes without. Raises ConfigError for a checkpoint that cannot be read.
    """
    name = config.get("pretrained")
    if name is None:
        return config
    from zoo.hf import Checkpoint

    chosen = config["model"]
    checkpoint = Checkpoint(name, dropout=chosen.get("dropout", 0.0))
    node = checkpoint.node
    fixed = {key: value for key, value in node["mixer"].items() if key != "_target_"}
    model = {
        **node,
        "context_length": chosen["context_length"],
        "mask": node["mask"] if _is_causal(chosen.get("mask")) else chosen["mask"],
        "mixer": {**(chosen.get("mixer") or node["mixer"]), **fixed},
    }
    config = {**config, "model": model}
    data = config.get("data") or {}
    default = f"{Bytes.__module__}.{Bytes.__qualname__}"
    if (config.get("tokenizer") or {}).get("_target_") != default:
        return config
    if any(checkpoint.files.find(file) for file in _TOKENIZERS):
        own = {"_target_": "tasks.data.huggingface.HuggingFace", "name": str(name)}
        config |= {"tokenizer": own, "data": {**data, "tokenizer": own}}
    return config


def _is_causal(mask: dict[str, Any] | None) -> bool:
    """True for the default mask, which stands for whichever the checkpoint has."""
    return mask is None or mask.get("_target_") == "zoo.masks.causal"


def load_weights(config: dict[str, Any], model: nn.Module, tokenizer: Any) -> None:
    """Puts the checkpoint's weights into a model that was built from `with_checkpoint`'s config.

    Raises UserError where the tokenizer has ids that the checkpoint does not know.
    """
    name = config.get("pretrained")
    if name is None:
        return
    from zoo.hf import Checkpoint

    size = config["model"]["vocab_size"]
    if tokenizer.vocab_size > size:
        raise UserError(
            f"tokenizer: has {tokenizer.vocab_size} ids, and pretrained={name} knows {size}; "
            f"use tokenizer=hf tokenizer.name={name}"
        )
    Checkpoint(name, dropout=0.0).load_into(model)  # type: ignore[arg-type]
