"""A model's weights where they lie: names, types, shapes and places, nothing in memory.

What can be opened:

    FILE.safetensors            one file
    FILE.ckpt  .pt  .bin        a torch checkpoint
    FOLDER with config.json     of Hugging Face, sharded or not
    FOLDER with config.yaml     of a run: model.safetensors, else its best, else its last checkpoint

A tensor that has several names (tied weights) is one entry; its other names are `aliases`.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.time_vectors.floats import WIDTHS
from tasks.time_vectors.torch_zip import read_parts

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Entry:
    """One tensor: `offset` is that of its first byte in the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * WIDTHS[self.dtype]


@dataclass
class Weights:
    """The tensors of one model, in the order of the file; `label` is what messages call it."""

    label: str
    path: Path
    entries: dict[str, Entry]
    aliases: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    _files: dict[Path, int] = field(default_factory=dict)

    def find(self, name: str) -> Entry | None:
        """The tensor of a name, tied ones included."""
        return self.entries.get(self.aliases.get(name, name))

    @property
    def files(self) -> set[Path]:
        """Every file that holds a tensor."""
        return {entry.path for entry in self.entries.values()}

    def read(self, entry: Entry, start: int, raw: np.ndarray) -> np.ndarray:
        """Fills the bytes `raw` from element `start` of a tensor on. Safe to call from threads."""
        if entry.path not in self._files:
            self._files[entry.path] = os.open(entry.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        done, view = 0, memoryview(raw)  # type: ignore[arg-type]
        offset = entry.offset + start * WIDTHS[entry.dtype]
        while done < len(view):
            got = os.preadv(self._files[entry.path], [view[done:]], offset + done)
            if not got:
                raise UserError(f"{entry.path}: ends before its tensors do; it is cut short")
            done += got
        return raw

    def close(self) -> None:
        """Closes the files that were read."""
        while self._files:
            os.close(self._files.popitem()[1])


def open_weights(path: str | Path) -> Weights:
    """The weights under a path; see above for what it may be.

    Raises UserError, naming the file, for one that is missing, damaged or of another kind.
    """
    given, path = str(path), Path(path)
    if path.is_dir():
        return _of_folder(given, path)
    if not path.is_file():
        raise UserError(f"{given}: no such file or folder")
    return _of_files(given, path, [path])


def _of_folder(label: str, folder: Path) -> Weights:
    for name in INDEXES:
        if (folder / name).is_file():
            return _of_files(label, folder, _shards(folder / name))
    choices = [*SINGLE, "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    for name in choices:
        if (folder / name).is_file():
            return _of_files(label, folder, [folder / name])
    raise UserError(f"{label}: is no model's folder; it has none of {', '.join(choices)}")


def _shards(index: Path) -> list[Path]:
    try:
        names = dict.fromkeys(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index}: is no index of shards ({error})") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index}: names {missing[0]}, which is not there; fetch all shards")
    return [index.parent / name for name in names]


def _of_files(label: str, path: Path, files: Iterable[Path]) -> Weights:
    weights = Weights(label, path, {})
    for file in files:
        with file.open("rb") as stream:
            torch_file = stream.read(2) == b"PK"
        if torch_file:
            _add_torch(weights, file)
        else:
            _add_safetensors(weights, file)
    return weights


def _add_torch(weights: Weights, path: Path) -> None:
    parts, starts = read_parts(path)
    seen: dict[tuple, str] = {}
    for name, part in parts.items():
        if not part.contiguous:
            raise UserError(f"{path}: {name} is not contiguous; save it with .contiguous()")
        if part.dtype not in WIDTHS:
            raise UserError(f"{path}: {name} is of an unknown type, {part.dtype}")
        place = (part.key, part.start, part.shape)
        if prod(part.shape) and place in seen:
            weights.aliases[name] = seen[place]
            continue
        seen[place] = name
        offset = starts[part.key] + part.start * WIDTHS[part.dtype]
        weights.entries[name] = Entry(path, part.dtype, part.shape, offset)


def _add_safetensors(weights: Weights, path: Path) -> None:
    header, start = read_header(path)
    metadata = header.pop("__metadata__", {})
    size = path.stat().st_size - start
    try:
        for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
            begin, end = about["data_offsets"]
            entry = Entry(path, about["dtype"], tuple(about["shape"]), start + begin)
            if entry.dtype not in WIDTHS or entry.nbytes != end - begin:
                raise UserError(
                    f"{path}: {name} is not what its header says ({about['dtype']} "
                    f"{about['shape']} in {end - begin} bytes)"
                )
            if end > size:
                raise UserError(f"{path}: ends before its tensors do; it is cut short")
            weights.entries[name] = entry
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no safetensors file ({error!r})") from error
    weights.metadata |= metadata
    # `safetensors.torch.save_model` notes here which name it left out for which.
    weights.aliases |= {a: b for a, b in metadata.items() if b in header and a not in header}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data start."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(100 << 20, path.stat().st_size - 8):
            raise UserError(f"{path}: is neither a safetensors file nor a torch checkpoint")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise UserError(f"{path}: is no safetensors file ({error})") from error
    return header, 8 + length


def match(base: Weights, model: Weights) -> dict[str, Entry]:
    """The model's tensor for each of the base's, by name.

    Raises UserError where one lacks what the other has, or a shape differs: such models do not share
    a space in which weights could be added.
    """
    found: dict[str, Entry] = {}
    used: set[Entry] = set()
    for name, entry in base.entries.items():
        names = [name, *(other for other, kept in base.aliases.items() if kept == name)]
        theirs = {e for e in map(model.find, names) if e is not None}
        if not theirs:
            raise UserError(f"{model.label}: has no {name}, which {base.label} has")
        if len(theirs) > 1:
            raise UserError(
                f"{model.label}: holds {' and '.join(names)} apart, which {base.label} ties"
            )
        found[name] = theirs.pop()
        used.add(found[name])
        if found[name].shape != entry.shape:
            raise UserError(
                f"{model.label}: {name} has shape {list(found[name].shape)}, "
                f"in {base.label} {list(entry.shape)}"
            )
    for name, entry in model.entries.items():
        if entry not in used:
            raise UserError(f"{base.label}: has no {name}, which {model.label} has")
    return found
