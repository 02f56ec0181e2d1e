"""Programs and their traces, one record each (formats.COLUMNS), by set and split."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tasks.errors import UserError

SPLITS = ("train", "val", "test")


class Records(Protocol):
    """Where records come from."""

    def fingerprint(self) -> dict[str, Any]:
        """What the records depend on, JSON-like; makes them where they do not exist yet."""

    def read(self, name: str, split: str) -> Iterator[dict[str, Any]]:
        """The records of a set's split, always in the same order."""


class Folder:
    """Records in files of a folder: SET/SPLIT.parquet or SET/SPLIT.jsonl."""

    def __init__(self, *, path: str | Path):
        self.path = Path(path).expanduser()

    def fingerprint(self) -> dict[str, Any]:
        """Of the files, by size and time."""
        files = sorted(p for p in self.path.glob("*/*") if p.suffix in (".parquet", ".jsonl"))
        if not files:
            raise UserError(f"{self.path}: holds no SET/SPLIT.parquet or SET/SPLIT.jsonl")
        about = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
        return {"files": hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()}

    def read(self, name: str, split: str) -> Iterator[dict[str, Any]]:
        """Record by record; nothing where the file is missing."""
        parquet, lines = (self.path / name / f"{split}.{kind}" for kind in ("parquet", "jsonl"))
        if parquet.is_file():
            from pyarrow.parquet import ParquetFile

            for batch in ParquetFile(parquet).iter_batches():
                yield from batch.to_pylist()
        elif lines.is_file():
            with lines.open() as file:
                yield from (json.loads(line) for line in file if line.strip())
