"""Zero-shot code-to-code search, re-ranked by what the programs are predicted to print.

    score(i, j) = cos(e_i, e_j) + w * Jaro(o_i, o_j)        (Liu et al. 2023, section 5.1)

e are unit embeddings, o a program's predicted outputs joined by spaces; the second term is there only
where both programs print. Every program is a query and every other one a candidate; relevant are those
that solve the same problem. The average precision of a query is the mean, over its relevant candidates,
of (relevant ones so far) / (rank), and the score is its mean over the queries that have any.

All solutions of a problem ran on the same input, so true outputs are close to giving the label away:
report `trace_weight=0`, true outputs and shuffled outputs beside the predicted ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Jaro

_PAIRS_AT_ONCE = 1 << 24


def mean_average_precision(
    embeddings: Any,
    outputs: Sequence[Sequence[str]],
    problem_ids: Sequence[Any],
    *,
    trace_weight: float = 0.2,
) -> float:
    """Mean average precision, in [0, 1], of searching each item among all the others.

    embeddings: (items, width), rows of unit length, an array or tensor. outputs: the printed texts of
    each item (see `metrics.outputs`), [] where nothing is known. problem_ids: one an item.
    Raises ValueError where the lengths differ or no two items share a problem.
    """
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu()
    vectors = np.asarray(embeddings)
    if vectors.ndim != 2:
        raise ValueError(f"embeddings: must be items x width, got shape {vectors.shape}")
    for name, given in (("outputs", outputs), ("problem_ids", problem_ids)):
        if len(given) != len(vectors):
            raise ValueError(f"{name}: {len(given)} of them for {len(vectors)} embeddings")
    _, problems = np.unique(np.asarray(problem_ids), return_inverse=True)
    texts = [" ".join(printed) for printed in outputs]
    prints = np.array([len(printed) > 0 for printed in outputs], dtype=bool)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(vectors)))
    found: list[float] = []
    for first in range(0, len(vectors), rows):
        queries = np.arange(first, min(first + rows, len(vectors)))
        scores = vectors[queries] @ vectors.T
        if trace_weight:
            scores += trace_weight * _similarity(queries, texts, prints)
        found += _average_precisions(scores, queries, problems)
    if not found:
        raise ValueError("problem_ids: no two items share a problem, so there is nothing to find")
    return float(np.mean(found))


def _similarity(queries: np.ndarray, texts: list[str], prints: np.ndarray) -> np.ndarray:
    """Jaro similarity of the queries' outputs with all, (queries, items); 0 where one prints nothing."""
    similar = process.cdist(
        [texts[i] for i in queries], texts, scorer=Jaro.similarity, dtype=np.float64
    )
    return np.where(prints[queries, None] & prints, similar, 0.0)


def _average_precisions(
    scores: np.ndarray, queries: np.ndarray, problems: np.ndarray
) -> list[float]:
    """The average precision of each query that has a relevant candidate."""
    order = np.argsort(scores, axis=-1, kind="quicksort")[:, ::-1]
    found = []
    for query, ranked in zip(queries, order):
        candidates = ranked[ranked != query]
        ranks = np.flatnonzero(problems[candidates] == problems[query]) + 1
        if len(ranks):
            found.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return found
