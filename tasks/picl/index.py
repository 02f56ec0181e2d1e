"""Vectors of paragraphs on disk, and FAISS indexes over them, a shard each.

    flat    exact, nothing but the vectors                    up to 65,536 vectors a shard
    hnsw    HNSW32, a graph over the vectors in float32       up to 262,144
    ivf     IVF, half-precision vectors, `probes` cells       up to 4 million
    pq      IVF with product-quantised vectors, the best 8 k ranked again by the vectors on disk

`auto` chooses by the shard's own size, so a shard that is added changes no other. Each index is
measured when it is built: the share of the exact k nearest that it finds.

Shapes: n vectors of width D, queries (Q, D), ids and scores (Q, k), best first; id -1 is none.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.picl.encoders import TextEncoder
from tasks.picl.paragraphs import Shard

_FORMAT = 1
_TEXTS_AT_ONCE = 4096
_ROWS_AT_ONCE = 16384
_MEASURED = 256  # queries of the recall against exact search
_LARGEST = {"flat": 1 << 16, "hnsw": 1 << 18, "ivf": 4_000_000}
_AGAIN = 8  # times k candidates are ranked again after product quantisation


class Vectors:
    """A matrix on disk (n, D) float16, read a part at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._rows = np.load(folder / "vectors.npy", mmap_mode="r")
        self.shape = self._rows.shape

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """float32 copies."""
        return np.ascontiguousarray(self._rows[which], dtype=np.float32)

    def parts(self, size: int = _ROWS_AT_ONCE) -> Iterator[tuple[int, np.ndarray]]:
        """First row and rows of each part; the map is opened anew, so that no page stays."""
        for start in range(0, len(self), size):
            yield start, self.rows(slice(start, start + size))
            self._rows = np.load(self.folder / "vectors.npy", mmap_mode="r")


def prepare_vectors(
    shard: Shard, encoder: TextEncoder, named: str, *, normalised: bool, cache_dir: Path
) -> Vectors:
    """Vectors of a shard's paragraphs; `named` is the encoder, for the key of the stage."""

    def build(folder: Path) -> None:
        shape = (len(shard), encoder.width)
        out = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, shape)
        with progress("embedding", len(shard)) as advance:
            for start in range(0, len(shard), _TEXTS_AT_ONCE):
                end = min(start + _TEXTS_AT_ONCE, len(shard))
                found = encoder.embed([shard.text(i) for i in range(start, end)])
                if normalised:
                    found /= np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
                out[start:end] = found
                advance(end - start)
        out.flush()
        shard.forget()

    key = {
        "format": _FORMAT,
        "paragraphs": shard.folder.name,
        "encoder": named,
        "normalised": normalised,
    }
    return Vectors(stage(cache_dir, "picl-vectors", key, build))


class Index:
    """How vectors are searched.

    kind: see above. metric: dot (the paper, and training), or l2 (the released search).
    probes: cells that a query looks into (ivf, pq). ef: breadth of a graph search (hnsw).
    """

    def __init__(
        self,
        *,
        kind: Literal["auto", "flat", "hnsw", "ivf", "pq"] = "auto",
        metric: Literal["dot", "l2"] = "dot",
        probes: int = 32,
        ef: int = 64,
    ):
        if kind not in ("auto", "flat", "hnsw", "ivf", "pq"):
            raise ValueError(f"kind: must be auto, flat, hnsw, ivf or pq, got {kind!r}")
        if metric not in ("dot", "l2"):
            raise ValueError(f"metric: must be dot or l2, got {metric!r}")
        for name, value in (("probes", probes), ("ef", ef)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.kind, self.metric, self.probes, self.ef = kind, metric, probes, ef

    def kind_for(self, n: int) -> str:
        """The kind for a shard of `n` vectors."""
        if self.kind != "auto":
            return self.kind
        return next((kind for kind, most in _LARGEST.items() if n <= most), "pq")

    def prepare(self, vectors: Vectors, cache_dir: Path) -> "Built":
        """The index of a shard, built and measured now unless its stage exists."""
        kind = self.kind_for(len(vectors))
        key = {
            "format": _FORMAT,
            "vectors": vectors.folder.name,
            "kind": kind,
            "metric": self.metric,
            "search": {"ivf": self.probes, "pq": self.probes, "hnsw": self.ef}.get(kind),
        }
        folder = stage(cache_dir, "picl-index", key, lambda f: self._build(f, vectors, kind))
        return Built(folder, vectors, self)

    @property
    def faiss_metric(self) -> int:
        return faiss.METRIC_INNER_PRODUCT if self.metric == "dot" else faiss.METRIC_L2

    def _build(self, folder: Path, vectors: Vectors, kind: str) -> None:
        began = time.perf_counter()
        about: dict[str, Any] = {"kind": kind, "vectors": len(vectors), "recall": 1.0}
        if kind != "flat":
            about["factory"] = factory(kind, *vectors.shape)
            index = faiss.index_factory(vectors.shape[1], about["factory"], self.faiss_metric)
            if not index.is_trained:
                index.train(vectors.rows(_spread(len(vectors), _training_size(len(vectors)))))
            with progress("indexing", len(vectors)) as advance:
                for _, rows in vectors.parts():
                    index.add(rows)
                    advance(len(rows))
            faiss.write_index(index, str(folder / "index.faiss"))
            del index
        about["seconds"] = round(time.perf_counter() - began, 3)
        (folder / "about.json").write_text(json.dumps(about))
        if kind != "flat":
            queries = vectors.rows(_spread(len(vectors), _MEASURED))
            k = min(10, len(vectors))
            found, _ = Built(folder, vectors, self).search(queries, k)
            exact, _ = exact_search(vectors, queries, k, self.metric)
            about["recall"] = overlap(found, exact)
            (folder / "about.json").write_text(json.dumps(about))


class Built:
    """A shard's index, open for search. about: kind, factory, vectors, seconds, recall@10."""

    def __init__(self, folder: Path, vectors: Vectors, settings: Index):
        self.folder, self.vectors, self.settings = folder, vectors, settings
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text())
        self._index: Any = None

    def _open(self) -> Any:
        if self._index is None:
            path = str(self.folder / "index.faiss")
            mapped = self.about["kind"] == "ivf"  # its lists are read from disk as they are needed
            self._index = faiss.read_index(path, faiss.IO_FLAG_MMAP if mapped else 0)
            if self.about["kind"] == "hnsw":
                self._index.hnsw.efSearch = self.settings.ef
            else:
                inner = faiss.extract_index_ivf(self._index)
                inner.nprobe = min(self.settings.probes, inner.nlist)
        return self._index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int64 and scores float32, (Q, k), best first; a score is larger where it is better."""
        metric = self.settings.metric
        if self.about["kind"] == "flat":
            return exact_search(self.vectors, queries, k, metric)
        wide = min(len(self.vectors), _AGAIN * k) if self.about["kind"] == "pq" else k
        scores, ids = self._open().search(queries, wide)
        scores = scores if metric == "dot" else -scores
        if self.about["kind"] == "pq":
            return self._again(queries, ids, k)
        return ids, scores

    def _again(self, queries: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The candidates, ranked by their exact vectors."""
        rows = self.vectors.rows(np.maximum(ids, 0).ravel()).reshape(*ids.shape, -1)
        if self.settings.metric == "dot":
            scores = np.einsum("qd,qkd->qk", queries, rows)
        else:
            scores = -((queries[:, None] - rows) ** 2).sum(-1)
        return best(np.where(ids < 0, -np.inf, scores), ids, k)


def factory(kind: str, n: int, width: int) -> str:
    """FAISS's name of an index for n vectors. About 4 sqrt(n) cells, of at least 39 vectors each."""
    if kind == "hnsw":
        return "HNSW32"
    cells = 2 ** round(math.log2(max(1, min(4 * math.sqrt(n), n / 39))))
    if kind == "ivf":
        return f"IVF{cells},SQfp16"
    parts = next(p for p in (width // 4, width // 2, width, 1) if p and width % p == 0)
    return f"IVF{cells},PQ{parts}np"  # "np": without a second, very slow, training


def _training_size(n: int) -> int:
    return min(n, max(65536, 64 * round(4 * math.sqrt(n))))


def _spread(n: int, count: int) -> np.ndarray:
    """At most `count` rows, the same distance apart."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def exact_search(
    vectors: Vectors, queries: np.ndarray, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """As `Built.search`, by comparing every query with every vector, a part at a time."""
    kind = faiss.METRIC_INNER_PRODUCT if metric == "dot" else faiss.METRIC_L2
    ids, scores = [], []
    for start, rows in vectors.parts(1 << 16):
        found, own = faiss.knn(queries, rows, min(k, len(rows)), metric=kind)
        scores.append(found if metric == "dot" else -found)
        ids.append(own + start)
    return best(np.concatenate(scores, 1), np.concatenate(ids, 1), k)


def best(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row, of equal ones the lower id; filled up with id -1 at -inf."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids = np.take_along_axis(ids, order, 1).astype(np.int64)
    scores = np.take_along_axis(scores, order, 1).astype(np.float32)
    if (short := k - ids.shape[1]) > 0:
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
    return ids, scores


def overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact ids that were found, over all rows."""
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, exact))
    return hits / exact.size
