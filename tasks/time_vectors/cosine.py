"""Cosines between the time vectors of n models, n x n, in one pass over their files.

    G_g = sum over the tensors of group g of  X X',   X (n, slice) the models' differences from the base

in float64, all groups at once; cos = G / sqrt(diag diag'). Adapters alone need no matrix to be made:
see `adapters.inner`. A group that a model leaves untouched has no direction: its cosines are NaN.
"""

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.time_vectors.adapters import inner
from tasks.time_vectors.linear import (
    SLICE,
    AdapterTerm,
    Term,
    floating,
    for_each,
    open_term,
    read_slice,
    slices,
)
from tasks.time_vectors.weights import open_weights

# The first that matches; names of the zoo, of T5 and of GPT-2.
GROUPS = (
    ("norm", r"norm|\bln_"),
    ("cross-attention", r"EncDecAttention"),
    ("attention", r"SelfAttention|attn|\bmixer\."),
    ("feed-forward", r"DenseReluDense|\bmlp\."),
    ("embedding", r"\bshared\b|embed|\bwte\b|\bwpe\b|^position"),
    ("head", r"head"),
)


def group_of(name: str) -> str:
    """The kind of parameter that a name belongs to."""
    return next((group for group, pattern in GROUPS if re.search(pattern, name)), "other")


@dataclass(frozen=True)
class Cosines:
    """`gram` by group and under "all" (n, n): inner products; the models in the order given."""

    models: list[str]
    gram: dict[str, np.ndarray]

    def matrix(self, group: str = "all") -> np.ndarray:
        """Cosines (n, n), exactly 1 on the diagonal; NaN where a difference is zero."""
        norms = self.norms(group)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = self.gram[group] / np.outer(norms, norms)
        np.fill_diagonal(cosines, np.where(norms > 0, 1.0, np.nan))
        return np.clip(cosines, -1, 1)

    def norms(self, group: str = "all") -> np.ndarray:
        """Lengths of the differences (n,)."""
        return np.sqrt(np.diag(self.gram[group]))


def cosine(base: str | Path, models: list[str], *, threads: int = 1) -> Cosines:
    """Inner products of the models' differences from `base`. Raises UserError as `combine` does."""
    weights = open_weights(base)
    terms = [open_term(str(model), weights) for model in models]
    n, numbers = len(terms), floating(weights)
    gram = {group_of(name): np.zeros((n, n)) for name in numbers}
    lock = threading.Lock()
    if all(isinstance(term, AdapterTerm) for term in terms):
        _factored(terms, gram)
    else:

        def work(name: str, start: int, count: int) -> None:
            X = np.zeros((n, count))
            b = read_slice(weights, numbers[name], start, count, np.dtype(np.float64))
            for row, term in enumerate(terms):
                if term.dtype(name) is not None:
                    X[row] = term.delta(name, start, b)
            product = X @ X.T
            with lock:
                gram[group_of(name)] += product

        for_each(work, slices(numbers, max(1024, SLICE // n)), threads)
    for closing in [weights, *terms]:
        closing.close()
    return Cosines([*map(str, models)], {"all": sum(gram.values(), np.zeros((n, n))), **gram})


def _factored(terms: list[Term], gram: dict[str, np.ndarray]) -> None:
    for i, one in enumerate(terms):
        for j, other in enumerate(terms[: i + 1]):
            assert isinstance(one, AdapterTerm) and isinstance(other, AdapterTerm)
            for name in one.names.keys() & other.names.keys():
                value = inner(one.adapter, other.adapter, one.names[name])
                gram[group_of(name)][i, j] += value
                if i != j:
                    gram[group_of(name)][j, i] += value


def show(found: Cosines, output: Path | None) -> None:
    """Prints the cosines of every group; writes all as JSON where asked."""
    for group, gram in found.gram.items():
        if not np.diag(gram).any():
            continue
        print(f"{group}: norms {' '.join(f'{norm:.4g}' for norm in found.norms(group))}")
        for row in found.matrix(group):
            print("  " + " ".join(f"{value:7.4f}" for value in row))
    if output is not None:
        content = {
            "models": found.models,
            "cosine": {g: _plain(found.matrix(g)) for g in found.gram},
            "norm": {g: found.norms(g).tolist() for g in found.gram},
        }
        output.write_text(json.dumps(content, indent=1) + "\n")


def _plain(matrix: np.ndarray) -> list[list[float | None]]:
    """JSON knows no NaN."""
    return [[float(v) if np.isfinite(v) else None for v in row] for row in matrix]
