"""UniXcoder's weights (Guo et al. 2022, arXiv 2203.03850), and CodeExecutor's, into the zoo's decoder.

UniXcoder is RoBERTa's stack read as a prefix language model: `model=unixcoder` builds the same from the
zoo's parts, and these functions put a checkpoint's numbers into it.

    RoBERTa                                     here
    word_embeddings                             embedding, which the head shares
    position_embeddings[2:] + token_type[0]     position.table    (the first rows belong to padding;
                                                                   every token is of type 0)
    embeddings.LayerNorm                        blocks.0.mixer_norm
    layer i: q, k, v | attention.output.dense   blocks.i.mixer.qkv | .project
             attention.output.LayerNorm         blocks.i.mlp_norm
             intermediate | output.dense        blocks.i.mlp.expand | .project
             output.LayerNorm                   blocks.i+1.mixer_norm, of the last layer `norm`

The bias of the head is left out: it was trained, never saved, and absent when the model was used.
Neither is the pooler read, which no language model has.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.decoder import Decoder
from zoo.hf.files import Files
from zoo.load import ConfigError

BASE, EXECUTOR = "microsoft/unixcoder-base", "microsoft/codeexecutor"
_SIZES = {  # a key of config.json -> what it is called here
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}


@torch.no_grad()
def load_weights(model: Decoder, name: str | Path = BASE, *, revision: str | None = None) -> None:
    """Copies a checkpoint of RoBERTa's shape into a model that `model=unixcoder` built.

    name: a folder with config.json and weights, or a name on the Hub. A vocabulary that has grown
    keeps the start of its new rows. Raises ConfigError, in one line, where the shapes differ.
    """
    files = Files(name, revision=revision)
    config = files.config()
    _check(model, config, str(name))
    weights = _read(files)
    try:
        for parameter, value in _pairs(model, weights, config.get("pad_token_id", 1)):
            _copy(parameter, value)
    except KeyError as missing:
        raise ConfigError(f"{name}: holds no {missing.args[0]}; it is no RoBERTa") from missing
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"{name}: does not fit the model ({error}); take model=unixcoder as it is"
        ) from error


def _check(model: Decoder, config: dict[str, Any], name: str) -> None:
    block: Any = model.blocks[0]
    ours = {
        "width": model.width,
        "num_layers": len(model.blocks),
        "num_heads": block.mixer.num_heads,
    }
    for key, here in _SIZES.items():
        if config.get(key) != ours[here]:
            raise ConfigError(
                f"model.{here}: is {ours[here]}, {name} has {config.get(key)}; "
                f"give model.{here}={config.get(key)} (size=small is UniXcoder's)"
            )
    eps = config.get("layer_norm_eps", 1e-12)
    if eps != model.norm.eps:
        raise ConfigError(f"model.norm.eps: is {model.norm.eps}, {name} has {eps}; give that")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ConfigError(f"{name}: has hidden_act={config['hidden_act']}, UniXcoder has gelu")
    if config.get("vocab_size", 0) > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size: is {model.vocab_size}, {name} has {config['vocab_size']}; "
            "use the checkpoint's tokenizer"
        )
    rows = config.get("max_position_embeddings", 0) - config.get("pad_token_id", 1) - 1
    if (model.max_length or rows + 1) > rows:
        raise ConfigError(
            f"model.context_length: is {model.max_length}, {name} has positions for {rows}; "
            f"give at most {rows}"
        )


def _read(files: Files) -> Callable[[str], Tensor]:
    """A tensor by its name in RoBERTa, whatever stands before it in the file."""
    if files.find("model.safetensors") or files.find("model.safetensors.index.json"):
        stored: Any = files.tensors()
        names = stored.names()
    else:
        stored = torch.load(files.need("pytorch_model.bin"), map_location="cpu", weights_only=True)
        names = set(stored)
    start = next((n.find("embeddings.word_embeddings") for n in names if "word_embedd" in n), 0)
    prefix = next((n[:start] for n in names if "word_embedd" in n), "")
    return lambda name: stored[prefix + name]


def _pairs(
    model: Decoder, weights: Callable[[str], Tensor], pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter, and what it becomes."""
    parts: Any = model
    table = parts.position.table.weight
    positions = weights("embeddings.position_embeddings.weight")[pad + 1 :][: len(table)]
    yield table, positions + weights("embeddings.token_type_embeddings.weight")[0]
    yield parts.embedding.weight, weights("embeddings.word_embeddings.weight")
    norms = [block.mixer_norm for block in parts.blocks] + [parts.norm]
    names = [
        "embeddings.LayerNorm",
        *(f"encoder.layer.{i}.output.LayerNorm" for i in range(len(parts.blocks))),
    ]
    layers = list(zip(norms, names))
    for i, block in enumerate(parts.blocks):
        theirs = f"encoder.layer.{i}."
        layers += [
            (block.mlp_norm, theirs + "attention.output.LayerNorm"),
            (block.mixer.project, theirs + "attention.output.dense"),
            (block.mlp.expand, theirs + "intermediate.dense"),
            (block.mlp.project, theirs + "output.dense"),
        ]
    for module, name in layers:
        yield module.weight, weights(name + ".weight")
        yield module.bias, weights(name + ".bias")
    for i, block in enumerate(parts.blocks):
        for kind in ("weight", "bias"):
            of = (
                weights(f"encoder.layer.{i}.attention.self.{part}.{kind}")
                for part in ("query", "key", "value")
            )
            yield getattr(block.mixer.qkv, kind), torch.cat(list(of))


def _copy(parameter: Tensor, value: Tensor) -> None:
    """The first rows of a table that has grown; everything else whole."""
    if parameter.shape[1:] != value.shape[1:] or len(parameter) < len(value):
        raise RuntimeError(f"{tuple(value.shape)} for {tuple(parameter.shape)}")
    parameter[: len(value)] = value.to(parameter.dtype)
