"""From the zoo's decoder to a checkpoint that transformers loads as one of its own classes."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from zoo.decoder import Decoder
from zoo.hf.families import stock_family
from zoo.hf.files import WEIGHTS


@torch.no_grad()
def save_pretrained(model: Decoder, folder: str | Path, **settings) -> str:
    """Writes config.json and model.safetensors, from which transformers computes equal logits.

    GPT-2's shape goes out as GPT2LMHeadModel, rotary positions with LayerNorm as GPTNeoXForCausalLM,
    with RMSNorm and SwiGLU as LlamaForCausalLM. Missing biases become zeros, shared keys and values
    copies, interleaved rotary pairs halves, where the class knows no other form. settings: more keys
    of the config, as eos_token_id. Returns the class's name. Raises ConfigError where none fits.
    """
    family, config = stock_family(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = family.own_tensors(model)
    tensors = {}
    for entry in family.entries(model):
        values = entry.write(state[entry.ours])
        values = values if isinstance(values, tuple) else (values,)
        for name, value in zip(entry.theirs, values):
            tensors[family.prefix + name] = value
    tied = model.head.weight is model.embedding.weight
    if not tied:
        tensors[family.head] = state["head.weight"]
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    family.config_class()(
        **config,
        tie_word_embeddings=tied,
        architectures=[family.architecture],
        dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
        **{"bos_token_id": None, "eos_token_id": None, **settings},
    ).save_pretrained(folder)
    return family.architecture
