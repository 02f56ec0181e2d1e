"""Where the tensors of a torch checkpoint lie in its file, read without torch.

A file of `torch.save` is a zip archive, nothing compressed: `data.pkl` says which tensor is which
part of which storage, and `data/0`, `data/1`, … are the storages. The pickle is read by an unpickler
that knows tensors and plain containers; whatever else it names becomes an empty stand-in, and no
code of the file is run.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError

_TYPES = {
    "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A tensor: `start` elements into the storage `key`."""

    key: str
    dtype: str
    start: int
    shape: tuple[int, ...]
    contiguous: bool


class _Nothing:
    """Stands for an object that is no tensor; takes whatever the pickle does to it."""

    def __new__(cls, *_: Any, **__: Any) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        return None

    def __call__(self, *_: Any, **__: Any) -> "_Nothing":
        return self

    def __setstate__(self, _: Any) -> None:
        return None

    def __setitem__(self, _: Any, __: Any) -> None:
        return None

    def append(self, _: Any) -> None:
        """A list of its kind."""

    def extend(self, _: Any) -> None:
        """A list of its kind."""


def _tensor(storage: Any, start: int, shape: tuple, stride: tuple, *_: Any) -> Part:
    dtype, key = storage
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    plain = all(n == 1 or a == b for n, a, b in zip(shape, stride, reversed(steps)))
    return Part(key, dtype, start, tuple(shape), plain)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch") and name == "_rebuild_tensor_v2":
            return _tensor
        if module.startswith("torch") and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name.endswith("Storage"):
            return _TYPES.get(name, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Nothing

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, dtype, key, *_ = pid
        return dtype, key


def read_parts(path: Path) -> tuple[dict[str, Part], dict[str, int]]:
    """The tensors of a checkpoint's state by name, and where each storage starts in the file.

    The state is the file's own dict, or its `state_dict`; of a run's checkpoint the model's part, its
    prefix taken off. Raises UserError for a file that is no whole torch checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            names = archive.namelist()
            pickled = next(name for name in names if name.endswith("data.pkl"))
            with archive.open(pickled) as stream:
                content = _Unpickler(stream).load()
            root = pickled.removesuffix("data.pkl") + "data/"
            starts = {
                info.filename.removeprefix(root): _content_start(file, info)
                for info in archive.infolist()
                if info.filename.startswith(root)
            }
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path}: is no whole torch checkpoint ({error})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    parts = {name: part for name, part in state.items() if isinstance(part, Part)}
    if "state_dict" in content:
        own = {n.removeprefix("model."): p for n, p in parts.items() if n.startswith("model.")}
        parts = own or parts
    if not parts:
        raise UserError(f"{path}: holds no tensors by name")
    return parts, starts


def _content_start(file: Any, info: zipfile.ZipInfo) -> int:
    if info.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("a compressed storage")
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    name, extra = (int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    return info.header_offset + 30 + name + extra
