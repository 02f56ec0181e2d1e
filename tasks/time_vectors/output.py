"""Tensors written straight to their place in files that appear whole or not at all.

The files grow under no name (O_TMPFILE) where the system can, so even a kill leaves nothing; elsewhere
beside their place under a hidden name, which a stop removes. Only when all is there do they get their
names, at one stroke.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import FrameType

import numpy as np

from tasks.errors import UserError
from tasks.time_vectors.floats import WIDTHS

_ALIGN = 64


@dataclass(frozen=True)
class Slot:
    """Room for one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * WIDTHS[self.dtype]


class Growing:
    """One safetensors file, laid out and preallocated, that has no name yet."""

    def __init__(self, folder: Path, slots: Mapping[str, Slot], metadata: Mapping[str, str]):
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        self.offsets: dict[str, int] = {}
        end = 0
        for name, slot in slots.items():
            self.offsets[name] = end
            header[name] = {
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "data_offsets": [end, end + slot.nbytes],
            }
            end += slot.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGN)
        start = 8 + len(text)
        self.offsets = {name: start + offset for name, offset in self.offsets.items()}
        self.hidden: Path | None = None
        self.file = self._open(folder)
        try:
            _reserve(self.file, start + end)
            os.pwrite(self.file, len(text).to_bytes(8, "little") + text, 0)
        except OSError as error:
            self.close()
            free = shutil.disk_usage(folder).free / 1e6
            raise UserError(
                f"{folder}: no room for {(start + end) / 1e6:,.0f} MB ({error.strerror}; "
                f"{free:,.0f} MB free)"
            ) from error

    def _open(self, folder: Path) -> int:
        try:
            if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
                return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError:
            pass  # a file system without it
        self.hidden = folder / f".growing-{os.getpid()}-{id(self)}"
        return os.open(self.hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)

    def write(self, name: str, start_byte: int, content: np.ndarray) -> None:
        """Puts bytes into a tensor's room. Safe to call from threads."""
        view, done = memoryview(content), 0  # type: ignore[arg-type]
        while done < len(view):
            done += os.pwrite(self.file, view[done:], self.offsets[name] + start_byte + done)

    def name(self, path: Path, *, sync: bool) -> None:
        """Flushes to disk where asked, and gives the file its name, which must be free."""
        if sync:
            os.fsync(self.file)
        if self.hidden is not None:
            os.rename(self.hidden, path)
        else:
            folder = os.open(path.parent, os.O_RDONLY)
            try:  # naming a folder makes Python use linkat, which follows the link under /proc
                os.link(f"/proc/self/fd/{self.file}", path, src_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Forgets the file, unless it got a name."""
        os.close(self.file)
        if self.hidden is not None:
            self.hidden.unlink(missing_ok=True)


def _reserve(file: int, size: int) -> None:
    """Takes the room now: a full disk is found before the work, not after it."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (28, 122, 27):  # no space, quota, too large
            raise
        os.ftruncate(file, size)


def publish(
    target: Path,
    files: Mapping[str, Growing],
    copies: Mapping[str, Path | bytes],
    *,
    sync: bool,
) -> None:
    """A folder `target` with the grown files and copies of others (a path, or content)."""
    folder = target.absolute().with_name(f".{target.name}.{os.getpid()}")
    folder.mkdir()
    try:
        for name, source in copies.items():
            if isinstance(source, bytes):
                (folder / name).write_bytes(source)
            elif source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)
        for name, file in files.items():
            file.name(folder / name, sync=sync)
        os.rename(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_free(output: Path, inputs: set[Path]) -> None:
    """Raises UserError where writing to `output` would touch an input or anything else that exists."""
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and output.samefile(path)):
            raise UserError(f"--output {output}: is an input; choose another path")
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--output {output}: lies in the input {path}; choose another path")
    if output.exists() or output.is_symlink():
        raise UserError(f"--output {output}: exists already; choose another path, or remove it")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}; make it first")


@contextmanager
def clean_stop() -> Iterator[None]:
    """A request to terminate unwinds like Ctrl-C, so that what was begun is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
