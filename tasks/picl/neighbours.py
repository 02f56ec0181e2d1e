"""The nearest paragraphs of each paragraph, cleaned, on disk.

Every shard is searched in every shard, each pair a stage of its own: a new shard costs its own pairs
and repeats none. The lists of a shard are then merged; out go the paragraph itself and whatever has its
text or that of a better neighbour (by hash, so across shards too). Since a shard holds no text twice,
k + 1 candidates from each leave k.

Shapes: n paragraphs, k neighbours, nearest first; id -1 is none.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.order import mix
from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.data.tokenizers import Tokenizer
from tasks.picl.index import Built, Index, Vectors, best, prepare_vectors
from tasks.picl.paragraphs import Paragraphs
from tasks.picl.retriever import Contrastive

_FORMAT = 1
_QUERIES_AT_ONCE = 1024


class Neighbours:
    """ids and scores of all shards, memory-mapped."""

    def __init__(self, folders: list[Path], starts: np.ndarray):
        self.folders, self._starts = folders, starts
        self._ids = [np.load(folder / "ids.npy", mmap_mode="r") for folder in folders]
        self._scores = [np.load(folder / "scores.npy", mmap_mode="r") for folder in folders]

    def of(self, i: int) -> np.ndarray:
        """ids of paragraph i's neighbours, nearest first."""
        place = int(np.searchsorted(self._starts, i, side="right")) - 1
        found = self._ids[place][i - self._starts[place]]
        return found[found >= 0]

    def scores(self, i: int) -> np.ndarray:
        """Their scores; larger is nearer."""
        place = int(np.searchsorted(self._starts, i, side="right")) - 1
        row = i - self._starts[place]
        return self._scores[place][row][self._ids[place][row] >= 0]

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Paragraph numbers and their ids (m, k), a part at a time."""
        for start, ids in zip(self._starts, self._ids):
            for first in range(0, len(ids), _QUERIES_AT_ONCE):
                rows = np.asarray(ids[first : first + _QUERIES_AT_ONCE])
                yield start + first + np.arange(len(rows)), rows

    @property
    def names(self) -> list[str]:
        """What they are, for the key of a stage."""
        return [folder.name for folder in self.folders]


class Finder(ABC):
    """A way of finding neighbours."""

    @abstractmethod
    def key(self, paragraphs: Paragraphs, tokenizer: Tokenizer, cache_dir: Path) -> dict[str, Any]:
        """What the candidates depend on besides the paragraphs."""

    @abstractmethod
    def candidates(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and scores (m, any) of the paragraphs `numbers`; themselves may be among them."""

    def report(self) -> dict[str, Any]:
        """What there is to say about it once neighbours were found."""
        return {}

    def prepare(
        self, paragraphs: Paragraphs, k: int, tokenizer: Tokenizer, cache_dir: Path
    ) -> Neighbours:
        """k neighbours of every paragraph, found now as far as their stages are missing."""
        self.paragraphs, self.k = paragraphs, k
        key = {
            "format": _FORMAT,
            "paragraphs": paragraphs.names,
            "k": k,
            **self.key(paragraphs, tokenizer, cache_dir),
        }
        folders = []
        for place in range(len(paragraphs.shards)):
            own = np.arange(*paragraphs.starts[place : place + 2])
            folders.append(
                stage(
                    cache_dir,
                    "picl-neighbours",
                    {**key, "shard": place},
                    lambda folder, rows=own: self._build(folder, rows),  # type: ignore[misc]
                )
            )
        return Neighbours(folders, paragraphs.starts[:-1])

    def _build(self, folder: Path, rows: np.ndarray) -> None:
        shape = (len(rows), self.k)
        ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", np.int64, shape)
        scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float32, shape)
        with progress("finding neighbours", len(rows)) as advance:
            for first in range(0, len(rows), _QUERIES_AT_ONCE):
                some = rows[first : first + _QUERIES_AT_ONCE]
                end = first + len(some)
                ids[first:end], scores[first:end] = clean(
                    some, *self.candidates(some, self.k), self.paragraphs.hashes, self.k
                )
                advance(len(some))
        ids.flush()
        scores.flush()


def clean(
    numbers: np.ndarray, ids: np.ndarray, scores: np.ndarray, hashes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each paragraph, without itself, its text, or any text twice."""
    scores, ids = np.array(scores, dtype=np.float32), np.array(ids, dtype=np.int64)
    scores[ids < 0] = -np.inf
    ids, scores = best(scores, ids, ids.shape[1])
    texts = hashes[np.maximum(ids, 0)]
    dropped = (ids < 0) | (texts == hashes[numbers][:, None])
    # A later equal text: stable by text, then compare with the one before.
    order = np.argsort(texts, axis=1, kind="stable")
    ordered = np.take_along_axis(texts, order, 1)
    again = np.zeros_like(dropped)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    np.put_along_axis(dropped, order, np.take_along_axis(dropped, order, 1) | again, 1)
    return best(np.where(dropped, -np.inf, scores), np.where(dropped, -1, ids), k)


class Dense(Finder):
    """By the vectors of a trained (or untrained) encoder, through FAISS."""

    def __init__(self, *, retriever: Contrastive, index: Index):
        self.retriever, self.index = retriever, index
        self.vectors: list[Vectors] = []
        self.built: list[Built] = []

    def key(self, paragraphs: Paragraphs, tokenizer: Tokenizer, cache_dir: Path) -> dict[str, Any]:
        self._cache = cache_dir
        encoder, named = self.retriever.prepare(tokenizer, cache_dir)
        self.vectors = [
            prepare_vectors(
                shard, encoder, named, normalised=self.retriever.cosine, cache_dir=cache_dir
            )
            for shard in paragraphs.shards
        ]
        self.built = [self.index.prepare(vectors, cache_dir) for vectors in self.vectors]
        return {"finder": "dense", "indexes": [built.folder.name for built in self.built]}

    def report(self) -> dict[str, Any]:
        total = sum(built.about["vectors"] for built in self.built)
        found = sum(built.about["recall"] * built.about["vectors"] for built in self.built)
        return {"kinds": [built.about["kind"] for built in self.built], "recall": found / total}

    def candidates(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        place = int(np.searchsorted(self.paragraphs.starts, numbers[0], side="right")) - 1
        rows = numbers - self.paragraphs.starts[place]
        ids, scores = [], []
        for start, built in zip(self.paragraphs.starts, self.built):
            folder = self._pair(self.vectors[place], built, k)
            own = np.load(folder / "ids.npy", mmap_mode="r")[rows]
            ids.append(np.where(own < 0, -1, own + start))
            scores.append(np.load(folder / "scores.npy", mmap_mode="r")[rows])
        return np.concatenate(ids, 1), np.concatenate(scores, 1)

    def _pair(self, queries: Vectors, built: Built, k: int) -> Path:
        """One shard searched in one index: k + 1 neighbours, numbered within the index."""

        def build(folder: Path) -> None:
            shape = (len(queries), k + 1)
            ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", np.int64, shape)
            scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float32, shape)
            with progress("searching", len(queries)) as advance:
                for start, rows in queries.parts(_QUERIES_AT_ONCE):
                    end = start + len(rows)
                    ids[start:end], scores[start:end] = best(*_flipped(built, rows, k + 1))
                    advance(len(rows))
            ids.flush()
            scores.flush()

        key = {"queries": queries.folder.name, "index": built.folder.name, "k": k}
        return stage(self._cache, "picl-search", key, build)


def _flipped(built: Built, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    ids, scores = built.search(rows, min(k, len(built.vectors)))
    return scores, ids, k


class BM25(Finder):
    """By words in common (Robertson and Zaragoza 2009; bm25s, Lu 2024), over words in lower case.

    The whole corpus is one index in memory: a baseline for up to some million paragraphs.
    """

    def __init__(self, *, k1: float = 1.5, b: float = 0.75):
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1: must be at least 0 and b in [0, 1], got {k1} and {b}")
        self.k1, self.b = k1, b
        self._index: Any = None

    def key(self, paragraphs: Paragraphs, tokenizer: Tokenizer, cache_dir: Path) -> dict[str, Any]:
        return {"finder": "bm25", "k1": self.k1, "b": self.b}

    def candidates(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to debug
        if self._index is None:
            texts = (self.paragraphs.text(i) for i in range(len(self.paragraphs)))
            words = [_words(text) for text in texts]
            self._index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
            self._index.index(words, show_progress=False)
        queries = [sorted({*_words(self.paragraphs.text(int(i)))}) for i in numbers]
        more = 1 + 8 * (len(self.paragraphs.shards) > 1)  # itself, and its text in other shards
        wanted = min(k + more, len(self.paragraphs))
        ids, scores = self._index.retrieve(queries, k=wanted, show_progress=False)
        return ids.astype(np.int64), scores


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Random(Finder):
    """Any other paragraphs, drawn from (seed, paragraph): the control."""

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def key(self, paragraphs: Paragraphs, tokenizer: Tokenizer, cache_dir: Path) -> dict[str, Any]:
        return {"finder": "random", "seed": self.seed}

    def candidates(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.arange(k + 8)
        drawn = mix(self.seed, numbers[:, None], wanted) % np.uint64(len(self.paragraphs))
        return drawn.astype(np.int64), np.broadcast_to(-wanted.astype(np.float32), drawn.shape)


class Oracle(Finder):
    """Other paragraphs of the same task, where the corpus knows the tasks: the upper control."""

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def key(self, paragraphs: Paragraphs, tokenizer: Tokenizer, cache_dir: Path) -> dict[str, Any]:
        if (paragraphs.tasks < 0).all():
            raise ValueError(
                "finder: the oracle needs a corpus whose tasks are known, such as data=picl_world"
            )
        return {"finder": "oracle", "seed": self.seed}

    def candidates(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.paragraphs.tasks, kind="stable")
        bounds = self.paragraphs.tasks[order]
        ids = np.full((len(numbers), k + 1), -1, dtype=np.int64)
        for row, (i, task) in enumerate(zip(numbers, self.paragraphs.tasks[numbers])):
            if task < 0:
                continue
            first, last = np.searchsorted(bounds, [task, task + 1])
            draw = np.random.default_rng((self.seed, int(i)))
            found = draw.permutation(order[first:last])[: k + 1]
            ids[row, : len(found)] = found
        scores = np.broadcast_to(-np.arange(k + 1, dtype=np.float32), ids.shape)
        return ids, scores


def all_pairs(paragraphs: Paragraphs, neighbours: Neighbours) -> Iterator[tuple[int, np.ndarray]]:
    """Every paragraph with its neighbours."""
    for numbers, ids in neighbours.parts():
        yield from zip(numbers.tolist(), map(_kept, ids))


def _kept(ids: np.ndarray) -> np.ndarray:
    return ids[ids >= 0]
