"""A trained run as a folder for transformers: `python -m zoo.export RUN FOLDER`.

FOLDER gets the weights (safetensors), config, tokenizer, and a model card with the run's results. A model
that transformers has a class for (GPT-2, GPT-NeoX, Llama) goes out as that class; any other brings its
own modelling file, loaded with trust_remote_code=True. Neither needs this project.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from zoo.hf.bundle import MODELING, bundle
from zoo.hf.card import card
from zoo.hf.files import CONFIG, WEIGHTS
from zoo.hf.save import save_pretrained
from zoo.hf.wrap import configuration, decoder_of, special_ids, tokenizer_of
from zoo.load import ConfigError, Run, load_run


def export(run_folder: str | Path, folder: str | Path, *, checkpoint: str = "best") -> str:
    """Writes the model of a run's folder into `folder`; returns the class that loads it.

    checkpoint: "best", "last", or a path. Raises ConfigError, FileNotFoundError or FileExistsError,
    one line, where the run cannot be read or written.
    """
    _must_be_free(Path(folder))
    return write(load_run(run_folder, checkpoint=checkpoint), folder)


def write(run: Run, folder: str | Path) -> str:
    """Writes a loaded run into `folder`; see `export`."""
    folder = Path(folder)
    _must_be_free(folder)
    model, settings = decoder_of(run), special_ids(run)
    try:
        architecture = save_pretrained(model, folder, **settings)
    except ConfigError:  # no stock class: with its own modelling file
        architecture = _save_with_code(run, folder)
    _save_generation(folder, settings)
    tokenizer = tokenizer_of(run)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card(run, architecture, tokenizer=tokenizer is not None))
    return architecture


def _must_be_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists and is not empty; give a folder of its own")


def _save_generation(folder: Path, settings: dict[str, Any]) -> None:
    from transformers import GenerationConfig

    GenerationConfig(**settings).save_pretrained(folder)


@torch.no_grad()
def _save_with_code(run: Run, folder: Path) -> str:
    from zoo.hf.modeling_zoo import ZooConfig, ZooForCausalLM

    model = decoder_of(run)
    carried = bundle(run.config["model"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in carried.files.items():
        (folder / name).write_text(text)
    tied = model.head.weight is model.embedding.weight
    # Tables that are no weights travel too; what is in the file need not be computed again.
    state = dict(model.named_buffers()) | model.state_dict()
    tensors = {
        f"decoder.{name}": value.detach().cpu().contiguous()
        for name, value in state.items()
        if not (tied and name == "head.weight")
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    name, module = ZooForCausalLM.__name__, MODELING.stem
    configuration(
        run,
        zoo=carried.node,
        architectures=[name],
        auto_map={
            "AutoConfig": f"{module}.{ZooConfig.__name__}",
            "AutoModelForCausalLM": f"{module}.{name}",
        },
    ).save_pretrained(folder)
    return name


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.export", description=__doc__)
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("folder", help="what to write; must not exist, or be empty")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a path")
    options = parser.parse_args(arguments)
    try:
        architecture = export(options.run, options.folder, checkpoint=options.checkpoint)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    remote = "auto_map" in json.loads((Path(options.folder) / CONFIG).read_text())
    code = ", trust_remote_code=True" if remote else ""
    print(
        f'{architecture}: AutoModelForCausalLM.from_pretrained("{options.folder}"{code})',
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
