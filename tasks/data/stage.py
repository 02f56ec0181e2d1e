"""Stages: work that is done once, kept in a folder named after its inputs, and never half there.

    folder = cache_dir / name / hash(key)

A stage builds in `<folder>.partial`, flushes it to disk and renames it when it is whole. A folder
under its final name is therefore complete; a kill at any moment costs that one stage. Processes
that want the same stage at the same time (ranks, jobs of a sweep) queue on a file lock, which the
kernel releases when its holder dies: one builds, the others find the result.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.errors import UserError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ENTRY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def digest(value: Any) -> str:
    """32 hex digits that name a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stage(cache_dir: Path, name: str, key: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Folder that `build(folder)` fills, built now unless it exists.

    Args:
        key: everything that the result depends on, JSON-like; kept in the folder as `stage.json`.
        build: fills the empty folder that it is given; may fail, and is then run again next time.
    Raises:
        UserError: the disk is full, or the cache folder cannot be written.
    """
    folder = Path(cache_dir).expanduser() / name / digest(key)
    if folder.exists():
        return folder
    with _disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not folder.exists():
                _build(folder, key, build)
    return folder


def _build(folder: Path, key: dict[str, Any], build: Callable[[Path], None]) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    try:
        build(partial)
        (partial / "stage.json").write_text(json.dumps(key, indent=1, sort_keys=True))
        for path in partial.rglob("*"):
            if path.is_file():
                _flush(path)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """Without it a power cut after the rename could leave a named but empty stage."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            free = shutil.disk_usage(_existing(folder)).free / 1e6
            raise UserError(
                f"no space on disk for the data cache in {folder} ({free:,.0f} MB free): free some, "
                "or put the cache elsewhere with paths.cache=FOLDER"
            ) from error
        if error.errno in _NO_ENTRY and _inside(error.filename, folder):
            raise UserError(
                f"cannot write the data cache in {folder} ({error.strerror}): "
                "choose another folder with paths.cache=FOLDER"
            ) from error
        raise


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _inside(filename: Any, folder: Path) -> bool:
    """Whether an error is about the cache: `filename` lies in `folder` or is on the way to it."""
    if filename is None:
        return False
    path = Path(os.fsdecode(filename))
    return path.is_relative_to(folder) or folder.is_relative_to(path)
