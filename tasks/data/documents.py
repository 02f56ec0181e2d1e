"""The first stage: a corpus, read once, deduplicated, every document with its hash.

`documents.arrow` holds text, id and meta (JSON) in batches; `index.arrow` the hash and the size in
bytes of each. The hash is of the text without its white space: two documents with equal hashes are
one, and the first is kept. It also decides, alone, the split:

    u = hash / 2^64:    test  u < test_fraction    val  u ≥ 1 - val_fraction    train  else

so neither the order of the documents, nor those added later, nor the other fraction moves one.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.data.arrow import Column, Mapped, read_batch, write_batch
from tasks.data.corpora import Corpus, Document
from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.errors import UserError

SPLITS = ("train", "val", "test")

_FORMAT = 2
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 8192
_FORGET_BYTES = 1 << 20
_SCHEMA = pa.schema(
    [("text", pa.large_string()), ("id", pa.large_string()), ("meta", pa.large_string())]
)


def content_hash(text: bytes) -> int:
    """64 bits of a UTF-8 text, blind to white space (of ASCII)."""
    data = text.translate(None, b" \t\n\r\v\f")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class Documents:
    """The deduplicated documents of a corpus, on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        index = read_batch(Mapped(folder / "index.arrow"))
        self.hashes: np.ndarray = index["hash"].to_numpy()
        self.sizes: np.ndarray = index["bytes"].to_numpy()

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def _map(self) -> Mapped:
        return Mapped(self.folder / "documents.arrow")

    @cached_property
    def _reader(self) -> pa.RecordBatchFileReader:
        return pa.ipc.open_file(pa.BufferReader(self._map.buffer))

    @cached_property
    def _starts(self) -> np.ndarray:
        counts = json.loads((self.folder / "batches.json").read_text())
        return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def read(self, rows: np.ndarray) -> Iterator[Document]:
        """The documents of the given rows, in the order given."""
        for batch in self._take(rows, ["text", "id", "meta"]):
            for text, name, meta in zip(*(column.to_pylist() for column in batch)):
                yield Document(text, name, json.loads(meta) if meta else {})

    def texts(self, rows: np.ndarray) -> Iterator[str]:
        """Only the texts of `read`."""
        for batch in self._take(rows, ["text"]):
            yield from batch["text"].to_pylist()

    def about(self, rows: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
        """Only id and meta of `read`."""
        for batch in self._take(rows, ["id", "meta"]):
            for name, meta in zip(*(column.to_pylist() for column in batch)):
                yield name, json.loads(meta) if meta else {}

    def _take(self, rows: np.ndarray, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Neighbouring rows of one batch are taken together."""
        places = np.searchsorted(self._starts, rows, side="right") - 1
        ends = np.flatnonzero(np.diff(places, append=-1)) + 1
        start, passed = 0, 0
        for end in ends:
            place = places[start]
            batch = self._reader.get_batch(int(place)).select(columns)
            yield batch.take(pa.array(rows[start:end] - self._starts[place]))
            passed += int(self.sizes[rows[start:end]].sum())
            if passed > _FORGET_BYTES:
                self._map.forget()
                passed = 0
            start = int(end)
        self._map.forget()

    def sample(self, rows: np.ndarray, max_bytes: int) -> np.ndarray:
        """Those of `rows` with the lowest hashes, as many as fit (at least one), in order."""
        ranked = rows[np.argsort(self.hashes[rows], kind="stable")]
        fitting = int(np.searchsorted(np.cumsum(self.sizes[ranked]), max_bytes, side="right"))
        return np.sort(ranked[: max(fitting, 1)])

    def split(self, *, val_fraction: float, test_fraction: float) -> dict[str, np.ndarray]:
        """Rows of train, val and test: disjoint, and together all.

        Training rows are in the corpus's order; val and test rows in that of their hashes, which
        makes any beginning of them a random sample. A part whose fraction is above zero has at
        least one document: in a tiny corpus, the one with the nearest hash.
        Raises UserError where there are not enough documents.
        """
        parts = 1 + (val_fraction > 0) + (test_fraction > 0)
        if len(self) < parts:
            raise UserError(
                f"data: the corpus has {len(self)} document(s), too few for {parts} splits; "
                "give more text, or set data.val_fraction=0 data.test_fraction=0"
            )
        u = self.hashes / 2.0**64
        rank = np.argsort(self.hashes, kind="stable")
        tests = max(int(np.sum(u < test_fraction)), int(test_fraction > 0))
        vals = max(int(np.sum(u >= 1 - val_fraction)), int(val_fraction > 0))
        if tests + vals >= len(self):
            raise UserError(
                f"data: no document of {len(self)} is left to train on; "
                "lower data.val_fraction and data.test_fraction, or give more text"
            )
        end = len(self) - vals
        return {"train": np.sort(rank[tests:end]), "val": rank[end:], "test": rank[:tests]}


def prepare_documents(corpus: Corpus, cache_dir: Path) -> Documents:
    """The documents of a corpus, read now unless they are cached."""
    key = {"format": _FORMAT, **corpus.fingerprint(cache_dir)}
    return Documents(stage(cache_dir, "documents", key, lambda folder: _read(corpus, folder)))


def _read(corpus: Corpus, folder: Path) -> None:
    hashes = Column(folder / "hash.raw", np.uint64)
    sizes = Column(folder / "bytes.raw", np.int64)
    seen = SeenHashes()
    counts: list[int] = []
    with (
        progress("reading", corpus.size(), unit="B") as advance,
        hashes,
        sizes,
        pa.OSFile(str(folder / "documents.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        for documents, texts in _batches(corpus.documents()):
            marks = np.fromiter(map(content_hash, texts), np.uint64)
            lengths = np.fromiter(map(len, texts), np.int64)
            new = seen.add(marks)
            advance(int(lengths.sum()))
            if not new.any():
                continue
            kept = new.nonzero()[0]
            writer.write_batch(_to_batch([documents[i] for i in kept], [texts[i] for i in kept]))
            counts.append(len(kept))
            hashes.append(marks[new])
            sizes.append(lengths[new])
    if not counts:
        raise UserError("data: the corpus has no text; every document of it is empty")
    write_batch(folder / "index.arrow", {"hash": hashes, "bytes": sizes})
    (folder / "batches.json").write_text(json.dumps(counts))


def _batches(documents: Iterator[Document]) -> Iterator[tuple[list[Document], list[bytes]]]:
    """Documents with their text as UTF-8, a few megabytes at a time, without the empty ones."""
    batch: list[Document] = []
    texts: list[bytes] = []
    size = 0
    for document in documents:
        if not document.text or document.text.isspace():
            continue
        batch.append(document)
        texts.append(_utf8(document.text))
        size += len(texts[-1])
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            yield batch, texts
            batch, texts, size = [], [], 0
    if batch:
        yield batch, texts


def _utf8(text: str) -> bytes:
    """Half characters (lone surrogates, which JSON can spell) have no UTF-8; they become "?"."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _to_batch(documents: list[Document], texts: list[bytes]) -> pa.RecordBatch:
    columns: list[list[Any]] = [
        texts,
        [d.id for d in documents],
        [json.dumps(d.meta) if d.meta else "" for d in documents],
    ]
    return pa.RecordBatch.from_arrays(
        [pa.array(values, pa.large_string()) for values in columns], schema=_SCHEMA
    )


class SeenHashes:
    """A set of 64-bit hashes at 8 bytes each (a Python set needs about 90).

    Sorted runs of geometrically growing length; equal-sized runs are merged, so there are at most
    log2(n) of them to look through.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Adds; returns for each whether it is new, of equal ones the first alone."""
        fresh, first = np.unique(hashes, return_index=True)
        known = np.zeros(len(fresh), dtype=bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, fresh), len(run) - 1)
            known |= run[place] == fresh
        new = np.zeros(len(hashes), dtype=bool)
        new[first[~known]] = True
        run = fresh[~known]
        while len(run) and self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        if len(run):
            self._runs.append(run)
        return new
