"""Linear forms of models, streamed: B + sum_i w_i (M_i - B), a slice at a time.

Every slice is read into a fixed buffer, computed in float32 (float64 where an input is), rounded once
to the type of the base, and written to its place: memory does not depend on the size of the models.
Reading, arithmetic and writing release the interpreter's lock, so a few threads share the slices.
A term may be a model, a difference that `diff` wrote, or a LoRA adapter.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from tasks.errors import UserError
from tasks.time_vectors.adapters import Adapter, is_adapter
from tasks.time_vectors.floats import WIDTHS, is_floating, wide, widen
from tasks.time_vectors.weights import Entry, Weights, match, open_weights

SLICE = 1 << 17  # elements: half a megabyte of float32, a few of which stay in a core's cache
DIFFERENCE = "time_vectors.difference"


@dataclass(frozen=True)
class Coefficient:
    """A weight, and others for the tensors whose name matches a pattern; the last match counts."""

    value: float
    patterns: tuple[tuple[str, float], ...] = ()

    def of(self, name: str) -> float:
        """The weight of one tensor."""
        found = self.value
        for pattern, value in self.patterns:
            found = value if fnmatchcase(name, pattern) else found
        return found

    @classmethod
    def parse(cls, text: str) -> "Coefficient":
        """`0.5`, or with patterns `0.5,*.mlp.*:0.9,embedding*:0`. Raises UserError."""
        first, *others = text.split(",")
        try:
            pairs = [(p, float(w)) for p, _, w in (other.rpartition(":") for other in others)]
            numbers = [float(first), *(w for _, w in pairs)]
        except ValueError as error:
            raise UserError(
                f"--term={text}=…: weights are numbers, as in 0.5 or 0.5,PATTERN:0.9 ({error})"
            ) from error
        if not np.isfinite(numbers).all():
            raise UserError(f"--term={text}=…: weights must be finite")
        return cls(numbers[0], tuple(pairs))


class ModelTerm:
    """M - B."""

    def __init__(self, weights: Weights, base: Weights):
        self.weights, self.label = weights, weights.label
        self.entries = match(base, weights)

    def dtype(self, name: str) -> str | None:
        """Of the tensor that would be read; None where nothing is added."""
        return self.entries[name].dtype

    def delta(self, name: str, start: int, base: np.ndarray) -> np.ndarray:
        """The slice's change, in the type of `base`."""
        theirs = self.value(name, start, base)
        return np.subtract(theirs, base, out=theirs)

    def value(self, name: str, start: int, base: np.ndarray) -> np.ndarray:
        """The slice itself, in a buffer of its own."""
        return read_slice(self.weights, self.entries[name], start, len(base), base.dtype)

    def close(self) -> None:
        """Closes files."""
        self.weights.close()


class DifferenceTerm(ModelTerm):
    """A difference that was written before."""

    def __init__(self, weights: Weights, base: Weights):
        self.weights, self.label = weights, weights.label
        names = {
            n: e for n, e in base.entries.items() if is_floating(e.dtype, f"{base.label}: {n}")
        }
        # Every floating tensor of the base is a tensor of its time vector, and none else.
        self.entries = match(Weights(base.label, base.path, names, base.aliases), weights)

    def dtype(self, name: str) -> str | None:
        return self.entries[name].dtype if name in self.entries else None

    def delta(self, name: str, start: int, base: np.ndarray) -> np.ndarray:
        return self.value(name, start, base)


class AdapterTerm:
    """scale * B A, made a few rows at a time."""

    def __init__(self, adapter: Adapter, base: Weights):
        self.adapter, self.label = adapter, adapter.label
        self.names: dict[str, str] = {}  # of the base -> of the adapter
        for name, factors in adapter.factors.items():
            own, entry = base.aliases.get(name, name), base.find(name)
            if entry is None:
                raise UserError(f"{base.label}: has no {name}, which {adapter.label} changes")
            if entry.shape != factors.shape:
                raise UserError(
                    f"{adapter.label}: changes {name} of shape {list(factors.shape)}, "
                    f"in {base.label} it has {list(entry.shape)}"
                )
            self.names[own] = name
        self._kept: tuple[str, tuple[np.ndarray, np.ndarray]] | None = None

    def dtype(self, name: str) -> str | None:
        return self.adapter.factors[self.names[name]].A.dtype if name in self.names else None

    def delta(self, name: str, start: int, base: np.ndarray) -> np.ndarray:
        kept = self._kept
        if kept is None or kept[0] != name:
            kept = self._kept = (name, self.adapter.matrices(self.names[name]))
        left, right = kept[1]
        columns = right.shape[1]
        first, last = start // columns, -(-(start + len(base)) // columns)
        rows = (left[first:last] @ right).reshape(-1)
        begin = start - first * columns
        return rows[begin : begin + len(base)].astype(base.dtype)

    def close(self) -> None:
        """Closes files."""
        self.adapter.close()


Term = ModelTerm | AdapterTerm


def open_term(path: str, base: Weights) -> Term:
    """A model, difference or adapter, checked against the base. Raises UserError."""
    if is_adapter(path):
        return AdapterTerm(Adapter(path), base)
    weights = open_weights(path)
    return (DifferenceTerm if DIFFERENCE in weights.metadata else ModelTerm)(weights, base)


def read_slice(
    weights: Weights, entry: Entry, start: int, count: int, dtype: np.dtype
) -> np.ndarray:
    """`count` elements from `start` on, widened to `dtype`, in memory of their own."""
    raw = weights.read(entry, start, np.empty(count * WIDTHS[entry.dtype], np.uint8))
    return widen(raw, entry.dtype, np.empty(count, dtype))


def combined(
    base: Weights, terms: list[tuple[Coefficient, Term]], name: str, start: int, count: int
) -> np.ndarray:
    """The slice of B + sum w (M - B), before rounding.

    One model with weight 1 is that model, bit for bit; a term of weight 0 is not read.
    """
    entry = base.entries[name]
    active = [(c.of(name), t) for c, t in terms if c.of(name) and t.dtype(name) is not None]
    dtype = wide([entry.dtype, *(str(t.dtype(name)) for _, t in active)])
    b = read_slice(base, entry, start, count, dtype)
    if len(active) == 1 and active[0][0] == 1 and type(active[0][1]) is ModelTerm:
        return active[0][1].value(name, start, b)
    total: np.ndarray | None = None
    for weight, term in active:
        delta = term.delta(name, start, b)
        np.multiply(delta, dtype.type(weight), out=delta)
        total = delta if total is None else np.add(total, delta, out=total)
    return b if total is None else np.add(total, b, out=total)


def slices(entries: dict[str, Entry], size: int = SLICE) -> Iterator[tuple[str, int, int]]:
    """(name, start, count) over all tensors, in their order."""
    for name, entry in entries.items():
        for start in range(0, entry.size, size):
            yield name, start, min(size, entry.size - start)


def for_each(
    work: Callable[[str, int, int], None], pieces: Iterator[tuple[str, int, int]], threads: int
) -> None:
    """Calls `work` on every slice, from several threads; the first error stops them all."""
    lock, stopped = threading.Lock(), threading.Event()

    def take() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                work(*piece)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(take) for _ in range(threads)]
        try:
            for job in jobs:
                job.result()
        finally:
            stopped.set()


def floating(base: Weights) -> dict[str, Entry]:
    """The tensors of a model that arithmetic applies to."""
    return {
        name: entry
        for name, entry in base.entries.items()
        if is_floating(entry.dtype, f"{base.label}: {name}")
    }


def inputs_of(base: Weights | None, terms: list[Term]) -> set[Path]:
    """Every file and folder that is read."""
    found: set[Path] = set()
    for weights in [
        base,
        *(t.adapter.weights if isinstance(t, AdapterTerm) else t.weights for t in terms),
    ]:
        if weights is not None:
            found |= weights.files | {weights.path}
    return found | {t.adapter.path for t in terms if isinstance(t, AdapterTerm)}
