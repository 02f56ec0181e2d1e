"""The architectures that are read and written, and which of them a config or a model is."""

from typing import Any

from zoo.decoder import Decoder
from zoo.hf.family import Family, Misfit
from zoo.hf.gpt2 import GPT2
from zoo.hf.llama import Llama
from zoo.hf.llama_kin import Mistral, Qwen2
from zoo.hf.neox import GPTNeoX
from zoo.load import ConfigError

FAMILIES: tuple[Family, ...] = (GPT2(), GPTNeoX(), Llama(), Mistral(), Qwen2())


def family_of(config: dict[str, Any], name: str) -> Family:
    """The family of a config.json; `name` is the checkpoint, for the message. Raises ConfigError."""
    for family in FAMILIES:
        if family.model_type == config["model_type"]:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ConfigError(
        f"pretrained={name}: is a {config['model_type']} model; the zoo reads {known}"
    )


def stock_family(model: Decoder) -> tuple[Family, dict[str, Any]]:
    """The family whose stock class computes what the model does, and that class's config.

    Raises ConfigError, saying of each what is in the way.
    """
    reasons = []
    for family in FAMILIES:
        try:
            return family, family.config(model)
        except Misfit as misfit:
            reasons.append(f"{family.model_type}: {misfit}")
    raise ConfigError(
        f"no stock class of transformers is this model ({'; '.join(reasons)}); "
        "python -m zoo.export writes it with its own modelling file"
    )
