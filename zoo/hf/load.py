"""From a checkpoint of transformers to the zoo's decoder."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from zoo.decoder import Decoder
from zoo.hf.families import family_of
from zoo.hf.family import Entry, Family, Misfit
from zoo.hf.files import Files
from zoo.load import ConfigError, build

# Buffers that older releases saved beside the weights.
_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
               ".rotary_emb.inv_freq")  # fmt: skip


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint, its config read and understood: `node` is what `zoo.load.build` makes of it.

    Raises ConfigError, one line, for one that is missing, of another architecture, or with a setting
    that the zoo cannot represent.
    """

    name: str | Path
    revision: str | None = None
    dropout: float | None = None  # in place of the checkpoint's

    def __post_init__(self) -> None:
        self.files = Files(self.name, revision=self.revision)
        said = self.files.config()
        self.family: Family = family_of(said, str(self.name))
        rates = {} if self.dropout is None else _all_dropouts(said, self.dropout)
        try:
            self.config: Any = self.family.config_class().from_dict({**said, **rates})
            self.node: dict[str, Any] = self.family.node(self.config)
        except Misfit as misfit:
            raise ConfigError(f"pretrained={self.name}: {misfit}") from misfit
        except Exception as error:  # transformers' own checks, of several kinds
            line = " ".join(str(error).split())
            raise ConfigError(f"pretrained={self.name}: config.json is refused ({line})") from error
        if self.dropout is not None:
            self.node["dropout"] = self.dropout

    @torch.no_grad()
    def load_into(self, model: Decoder) -> None:
        """Copies every weight into a model that was built from `node`, casting to its dtype."""
        weights = self.files.tensors()
        prefix = self.family.prefix
        where = {name.removeprefix(prefix): name for name in weights.names()}
        state = model.state_dict()
        entries = self.family.entries(model, self.config)
        if model.head.weight is not model.embedding.weight:
            head = self.family.head if self.family.head in where else "lm_head.weight"
            entries = [*entries, Entry("head.weight", (head,))]
        for entry in entries:
            missing = [name for name in entry.theirs if name not in where]
            if missing:
                raise ConfigError(
                    f"{weights.paths[0]}: holds no {missing[0]}; it is no whole "
                    f"{self.family.architecture}"
                )
            value = entry.read(*(weights[where.pop(name)] for name in entry.theirs))
            target = state.pop(entry.ours)
            if value.shape != target.shape:
                raise ConfigError(
                    f"{weights.paths[0]}: {' and '.join(entry.theirs)} makes {tuple(value.shape)}, and "
                    f"config.json asks for {tuple(target.shape)}"
                )
            target.copy_(value)
        tied = {self.family.head, "lm_head.weight"}
        extra = [n for n in where if not n.endswith(_NO_WEIGHTS) and n not in tied]
        if extra:
            raise ConfigError(
                f"{weights.paths[0]}: {min(extra)} has no place in a {self.family.architecture}"
            )


def _all_dropouts(said: dict[str, Any], rate: float) -> dict[str, float]:
    """Every dropout of a config set to one rate."""
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout")
    return {name: rate for name in names if name in said}


def load_pretrained(
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    myopic: str | None = None,
    dropout: float | None = None,
    revision: str | None = None,
) -> Decoder:
    """The decoder of a checkpoint, in eval mode: `model(tokens_BT)` are transformers' logits (B, T, V).

    name_or_folder: a repository of the Hub, or a folder with config.json and safetensors.
    dtype: of the weights; None: float32. myopic: "hidden" or "kv", for training without the gradient
    from later tokens; the logits are the same. dropout: in place of the checkpoint's. revision: of
    the Hub. Raises ConfigError, one line, for what is missing or cannot be represented.
    """
    checkpoint = Checkpoint(name_or_folder, revision=revision, dropout=dropout)
    node = checkpoint.node
    if myopic is not None:
        if myopic not in ("hidden", "kv"):
            raise ConfigError(f"myopic: must be hidden, kv or None, got {myopic!r}")
        mixer = {"_target_": "zoo.mixers.myopic.MyopicAttention", "variant": myopic}
        node = {**node, "mixer": {**node["mixer"], **mixer}}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or torch.float32)
    try:
        model = build(node, key="model")
    finally:
        torch.set_default_dtype(before)
    checkpoint.load_into(model)
    return model.eval()
