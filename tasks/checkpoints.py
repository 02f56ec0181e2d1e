"""Checkpoints that a kill cannot spoil, and the search for the one to go on from.

A checkpoint is written beside its place, flushed to disk and renamed, and the one that it replaces
is kept as `previous.ckpt`. So at every moment there is a whole one.
"""

import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tasks.errors import UserError

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside, flushes, renames; raises UserError where the disk is full."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            free = shutil.disk_usage(path.parent).free / 2**20
            raise UserError(
                f"{path}: cannot be written ({error}; {free:.0f} MiB free); free some space or set "
                "paths.root to another disk, then go on with ckpt=last"
            ) from error


def is_whole(path: Path) -> bool:
    """True where every part of a checkpoint file is there and has the checksum that it was given."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint of a run to go on from: `last`, or the newest whole one before it."""
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        path = folder / "checkpoints" / name
        if not path.is_file():
            continue
        if is_whole(path):
            return path
        log.warning("%s is damaged or half-written; looking for the one before it", path)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content. Raises UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"ckpt: {path} does not exist; give a .ckpt file, a run's folder, or last")
    if not is_whole(path):
        raise UserError(f"ckpt: {path} is damaged or half-written; give the run's folder instead")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def check_shapes(state: dict[str, Any], model: torch.nn.Module, path: Path) -> None:
    """Raises UserError where a checkpoint's weights are not those of this model."""
    saved = {
        name.removeprefix("model."): tuple(value.shape)
        for name, value in state["state_dict"].items()
        if name.startswith("model.")
    }
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in {**wanted, **saved}:
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"ckpt: {path} is of another shape ({name}: {saved.get(name, 'absent')} there, "
                f"{wanted.get(name, 'absent')} here); use the model and size that it was trained with"
            )
