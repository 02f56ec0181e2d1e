"""Text from files: `.txt`, `.md`, `.py` and other plain text, `.jsonl`, `.parquet`, packed or not.

Nothing is read as a whole: plain text goes through a window of a document's length, `.jsonl` line
by line, `.parquet` a few hundred rows at a time.
"""

import glob
import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from tasks.data.content import content_of
from tasks.data.corpora import Corpus, Document
from tasks.data.cut import cut
from tasks.data.open import NotText, open_binary, open_text, reading
from tasks.errors import UserError

log = logging.getLogger(__name__)

PLAIN = (".txt", ".md", ".rst", ".py")
ROWS = (".jsonl", ".ndjson", ".parquet")
PACKED = (".gz", ".bz2", ".xz", ".zst")

_FEW_FILES = 100
_WHOLE = 1 << 20
_ROWS_AT_ONCE = 256


class Text(Corpus):
    """Files, folders (searched to the bottom, hidden ones left out) and globs.

    A row of `.jsonl` or `.parquet` is a document, and so is a plain file. But a large plain file is
    cut into several at blank lines, or else at line ends: a file of its own would fall whole into
    one split, and would have to fit into memory. Where there are 100 files or more, those above a
    million characters are cut, into pieces of up to 65,536; where there are fewer, the pieces are
    small enough that there are about 128 of them (1,024 to 65,536 characters).

    Args:
        path: one, or a list. A file named outright is read as plain text whatever its suffix, and
            must be text; one that is met in a folder and is not text is left out with a warning.
        text_column: of `.jsonl` and `.parquet`.
        meta_columns: other columns to keep with each document.
        separator: cut plain files wherever this stands (which is dropped), e.g. "<|endoftext|>".
        document_size: cut plain files above as many characters, whatever the rule above says.
        encoding: of plain files.
        max_documents: read no more than these.
    """

    def __init__(
        self,
        *,
        path: str | Sequence[str],
        text_column: str = "text",
        meta_columns: Sequence[str] = (),
        separator: str | None = None,
        document_size: int | None = None,
        encoding: str = "utf-8",
        max_documents: int | None = None,
    ):
        if not path:
            raise ValueError("path: is empty; give a file, a folder or a glob")
        if separator == "":
            raise ValueError("separator: is empty; leave it out, or give some text")
        for name, value in (("document_size", document_size), ("max_documents", max_documents)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        try:
            "".encode(encoding)
        except LookupError as error:
            raise ValueError(f"encoding: {error}; utf-8 and latin-1 are known") from error
        self.path = [path] if isinstance(path, str) else list(path)
        self.text_column = text_column
        self.meta_columns = list(meta_columns)
        self.separator = separator
        self.document_size = document_size
        self.encoding = encoding
        self.max_documents = max_documents

    @cached_property
    def files(self) -> dict[Path, str]:
        """The files to read, in order, and what each is called in the ids of its documents.

        Looked up once, so that what is read is what the fingerprint is of.

        Raises UserError for a path that names nothing or nothing readable.
        """
        found: dict[Path, str] = {}
        for name in self.path:
            for path, called in _find(os.path.expanduser(str(name))):
                found.setdefault(path, called)
        return found

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        return {
            "corpus": "files",
            "text_column": self.text_column,
            "meta_columns": self.meta_columns,
            "separator": self.separator,
            "document_size": self.document_size,
            "encoding": self.encoding,
            "max_documents": self.max_documents,
            "content": content_of(self.files, cache_dir),
        }

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def documents(self) -> Iterator[Document]:
        return islice(self._documents(), self.max_documents)

    def _documents(self) -> Iterator[Document]:
        whole, piece = self._sizes()
        for path, called in self.files.items():
            try:
                with reading(path):
                    if _suffix(path) == ".parquet":
                        yield from self._parquet(path, called)
                    elif _suffix(path) in ROWS:
                        yield from self._json_lines(path, called)
                    else:
                        yield from self._plain(path, called, whole, piece)
            except NotText as error:
                if len(self.files) == 1 or self._named(path):
                    raise
                log.warning("left out: %s", error)

    def _named(self, path: Path) -> bool:
        """Whether the person named this very file, rather than the folder that it lies in."""
        return any(_absolute(Path(os.path.expanduser(str(name)))) == path for name in self.path)

    def _sizes(self) -> tuple[int, int]:
        """Characters above which a plain file is cut, and those of a piece."""
        if self.document_size is not None:
            return self.document_size, self.document_size
        if len(self.files) >= _FEW_FILES or self.separator is not None:
            return _WHOLE, 1 << 16
        piece = min(max(self.size() // 128, 1 << 10), 1 << 16)
        return piece, piece

    def _plain(self, path: Path, called: str, whole: int, piece: int) -> Iterator[Document]:
        with open_text(path, self.encoding) as file:
            texts = cut(file, separator=self.separator, whole=whole, piece=piece)
            for number, text in enumerate(texts):
                yield Document(text, f"{called}#{number}" if number else called)

    def _json_lines(self, path: Path, called: str) -> Iterator[Document]:
        with open_binary(path) as file:
            for number, line in enumerate(_lines(file), start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(
                        f"{where}: is not JSON ({error}); mend or remove the line"
                    ) from error
                if not isinstance(row, dict):
                    raise UserError(
                        f"{where}: is not a JSON object with a {self.text_column!r} key"
                    )
                self._check_columns(where, list(row))
                yield from self._row(row, where, f"{called}:{number}")

    def _parquet(self, path: Path, called: str) -> Iterator[Document]:
        if path.suffix in PACKED:
            raise UserError(f"{path}: unpack it first; parquet is compressed inside already")
        with pq.ParquetFile(path, pre_buffer=False) as file:
            self._check_columns(str(path), file.schema_arrow.names)
            columns = [self.text_column, *self.meta_columns]
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    yield from self._row(row, f"{path} row {number}", f"{called}:{number}")
                    number += 1

    def _check_columns(self, where: str, names: list[str]) -> None:
        for key, column in [
            ("text_column", self.text_column),
            *(("meta_columns", name) for name in self.meta_columns),
        ]:
            if column not in names:
                raise UserError(
                    f"{where}: has no column {column!r}; set data.{key} to one of {', '.join(names)}"
                )

    def _row(self, row: dict[str, Any], where: str, name: str) -> Iterator[Document]:
        text = row[self.text_column]
        if text is None:
            return
        if not isinstance(text, str):
            raise UserError(
                f"{where}: column {self.text_column!r} holds {type(text).__name__}, not text; "
                "set data.text_column to one that holds text"
            )
        yield Document(text, name, {column: plain(row[column]) for column in self.meta_columns})


def plain(value: Any) -> Any:
    """A cell as JSON can hold it; dates and the like as text."""
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline():
        yield line


def _suffix(path: Path) -> str:
    """`.txt` of both `a.txt` and `a.txt.gz`, in lower case."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _find(name: str) -> Iterator[tuple[Path, str]]:
    path = Path(name)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _wanted(p.relative_to(path)))
        if not found:
            raise UserError(f"data.path={name}: no {' '.join(PLAIN + ROWS)} file in this folder")
        if not any(p.stat().st_size for p in found):
            raise UserError(f"data.path={name}: every file in this folder is empty")
        yield from ((_absolute(p), p.relative_to(path).as_posix()) for p in found)
    elif path.exists():
        if path.is_file() and not path.stat().st_size:
            raise UserError(f"data.path={name}: is empty; give a file with text in it")
        yield _absolute(path), path.name
    elif glob.has_magic(name):
        found = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not found:
            raise UserError(f"data.path={name}: no file matches (looked from {Path.cwd()})")
        yield from ((_absolute(p), p.as_posix()) for p in found)
    else:
        raise UserError(f"data.path={name}: no such file or folder (looked from {Path.cwd()})")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _wanted(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and _suffix(path) in PLAIN + ROWS
