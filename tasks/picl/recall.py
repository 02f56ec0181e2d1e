"""How well neighbours share their query's task, where the tasks are known.

    recall@k = (same-task paragraphs among the k nearest) / min(k, same-task paragraphs there are)

averaged over queries. With at least k paragraphs a task, which is the rule, it is the share of the k
neighbours that are right. Beside it `same_end@k`: the share of neighbours whose last word is the
query's, which says whether a retriever finds the task or merely its answer.
"""

from typing import Any

import numpy as np

from tasks.picl.neighbours import Neighbours, all_pairs
from tasks.picl.paragraphs import Paragraphs


def measure(
    paragraphs: Paragraphs,
    neighbours: Neighbours,
    seen_tasks: set[int],
    *,
    k: int = 9,
    sample: int = 4096,
) -> dict[str, float]:
    """`retrieval/recall@k`, and that of tasks whose labelled rows a retriever may have seen, or not.

    sample: at most so many queries, spread over the corpus. {} where no task is known.
    """
    if (paragraphs.tasks < 0).all():
        return {}
    counts = np.bincount(paragraphs.tasks[paragraphs.tasks >= 0])
    with_task = np.flatnonzero(paragraphs.tasks >= 0)
    chosen = set(with_task[:: max(1, len(with_task) // sample)].tolist())
    recalls: list[float] = []
    seen: list[bool] = []
    ends: list[float] = []
    for query, found in all_pairs(paragraphs, neighbours):
        task = int(paragraphs.tasks[query])
        if query not in chosen or counts[task] < 2:
            continue
        right = (paragraphs.tasks[found[:k]] == task).sum()
        recalls.append(float(right) / min(k, int(counts[task]) - 1))
        seen.append(task in seen_tasks)
        end = _last_word(paragraphs.text(query))
        same = [_last_word(paragraphs.text(int(i))) == end for i in found[:k]]
        ends.append(float(np.mean(same)) if same else 0.0)
    if not recalls:
        return {}
    value, mark = np.array(recalls), np.array(seen)
    result: dict[str, Any] = {
        f"retrieval/recall@{k}": float(value.mean()),
        f"retrieval/same_end@{k}": float(np.mean(ends)),
    }
    if mark.any():
        result[f"retrieval/recall_seen@{k}"] = float(value[mark].mean())
    if not mark.all():
        result[f"retrieval/recall_held_out@{k}"] = float(value[~mark].mean())
    return result


def _last_word(text: str) -> str:
    return text.split()[-1]
