"""Ready-made rows of a retriever's training data, in the format of PICL's released pipeline.

JSON lines, a query each: query, pos_context, label, easy_neg_contexts, easy_neg_labels,
hard_neg_contexts, hard_neg_labels. A label names a data set and template; candidates of the batch that
carry the query's label are its positives, whoever's candidates they are.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.content import content_of
from tasks.data.order import order
from tasks.data.stage import digest
from tasks.errors import UserError
from tasks.picl.retriever import Batch, Examples

_FIELDS = ("query", "pos_context", "label")


class TripleFile(Examples):
    """A file of such rows, read a row at a time; only where each begins is kept in memory."""

    def __init__(self, *, path: str | Path):
        self.path = Path(path).expanduser()

    @cached_property
    def _starts(self) -> np.ndarray:
        if not self.path.is_file():
            raise UserError(
                f"examples.path: {self.path} does not exist; give a file of JSON lines with "
                "query, pos_context, label and negatives"
            )
        starts, place = [], 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    starts.append(place)
                place += len(line)
        if not starts:
            raise UserError(f"{self.path}: is empty")
        return np.array(starts, dtype=np.int64)

    def _row(self, number: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(int(self._starts[number]))
            try:
                row = json.loads(file.readline())
                for name in _FIELDS:
                    row[name]
                return row
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.path}:{number + 1}: is no row of a retriever's data ({error})"
                ) from error

    @property
    def fingerprint(self) -> dict[str, Any]:
        self._starts  # noqa: B018  (a missing file is one clear line)
        content = content_of({self.path: self.path.name}, self.path.parent / ".contents")
        return {"labelled": "file", "content": digest(content)}

    def batch(self, index: int, *, seed: int, batch_size: int, **sampling: Any) -> Batch:
        """The next rows of a shuffle; as many negatives of each kind as are asked for and there are."""
        numbers = order(seed, index * batch_size + np.arange(batch_size), len(self._starts))
        queries: list[str] = []
        candidates: list[str] = []
        labels: list[str] = []
        marks: list[str] = []
        owners: list[int] = []
        own: list[int] = []
        for i, number in enumerate(numbers):
            row = self._row(int(number))
            queries.append(row["query"])
            labels.append(row["label"])
            own.append(len(candidates))
            found = [(row["pos_context"], row["label"], -1)]
            easy = zip(row.get("easy_neg_contexts", []), row.get("easy_neg_labels", []))
            found += [(text, mark, -1) for text, mark in easy][: sampling["easy_negatives"]]
            # A hard negative is in the query's words but of no task: it is nobody's positive.
            hard = row.get("hard_neg_contexts", [])[: sampling["hard_negatives"]]
            found += [(text, "", i) for text in hard]
            for text, mark, owner in found:
                candidates.append(text)
                marks.append(mark)
                owners.append(owner)
        positive = torch.tensor([[bool(m) and m == label for m in marks] for label in labels])
        owner_M = torch.tensor(owners)
        visible = torch.ones_like(positive)
        if sampling["hard_scope"] == "own":
            visible = (owner_M < 0) | (owner_M == torch.arange(batch_size)[:, None])
        return Batch(queries, candidates, torch.tensor(own), positive, visible)
