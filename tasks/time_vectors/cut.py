"""Which documents each period's splits have: the rows of a dated corpus, cut by time and by hash.

    test   u < test_fraction      val   u >= 1 - val_fraction      base   the next base_fraction of the rest
    train  what is left, in the order of the hashes, up to a little more than the smallest period has

u is a document's hash as a number in [0, 1), so neither the order of the documents nor the periods
decide which split one falls into. Controls are cut from the same documents: `shuffled-k` is the k-th
of as many equal parts of all periods' training text in the order of the hashes, dates forgotten.
"""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tasks.data.documents import Documents
from tasks.errors import UserError
from tasks.time_vectors.periods import Calendar, parse_month

if TYPE_CHECKING:
    from tasks.time_vectors.data import DatedData

BASE, ALL, SHUFFLED, ONLINE = "base", "all", "shuffled-", "online-"


class Dated:
    """The rows of every period's splits: {"train-2015": rows, …}, of base and all too."""

    def __init__(self, data: "DatedData", documents: Documents):
        self.documents = documents
        months = self._months(data)
        inside = np.flatnonzero(months >= 0)
        if data.first is not None:
            inside = inside[months[inside] >= data.first[0]]
        if data.last is not None:
            inside = inside[months[inside] <= data.last[1]]
        if not len(inside):
            raise UserError("data: no document lies between data.first and data.last")
        origin = int(months[inside].min()) if data.first is None else int(data.first[0])
        calendar = Calendar(data.by, data.every, origin)
        numbers = np.asarray(calendar.number(months[inside]))  # type: ignore[arg-type]
        self.key = {
            **data.fractions,
            "by": data.by,
            "every": data.every,
            "first": data.first,
            "last": data.last,
            "date_column": data.date_column,
            "base_fraction": data.base_fraction,
            "dated": 1,
        }
        self.labels: list[str] = []
        self.rows: dict[str, np.ndarray] = {}
        self._cut(data, months, inside, numbers, calendar)

    def _months(self, data: "DatedData") -> np.ndarray:
        """Month of each document, -1 where it has no date."""
        everything = np.arange(len(self.documents))
        months = np.full(len(everything), -1)
        self.parts = np.full(len(everything), "", dtype=object)
        for row, (name, meta) in enumerate(self.documents.about(everything)):
            text = meta.get(data.date_column) if data.date_column else None
            month = parse_month(str(name if text is None else text))
            months[row] = -1 if month is None else month
            self.parts[row] = meta.get("part", "")
        if (months < 0).all():
            raise UserError(
                "data: no document has a date; name the column that holds it with "
                "data.date_column, or put it into the names of the files"
            )
        return months

    def _cut(
        self,
        data: "DatedData",
        months: np.ndarray,
        inside: np.ndarray,
        numbers: np.ndarray,
        calendar: Calendar,
    ) -> None:
        u = self.documents.hashes / 2.0**64
        order = np.argsort(self.documents.hashes, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        test, val = data.fractions["test_fraction"], data.fractions["val_fraction"]
        given = (self.parts == "test").any()  # the corpus comes with its own test split
        is_test = self.parts == "test" if given else u < test
        is_val = ~is_test & (u >= 1 - val)
        start = 0.0 if given else test
        is_base = ~is_test & ~is_val & (u < start + data.base_fraction * (1 - val - start))
        pools: dict[str, np.ndarray] = {}
        for number in range(int(numbers.min()), int(numbers.max()) + 1):
            rows = inside[numbers == number]
            rows = rows[np.argsort(rank[rows])]
            label = calendar.label(number)
            train = rows[~(is_test | is_val | is_base)[rows]]
            splits = {"test": rows[is_test[rows]], "val": rows[is_val[rows]]}
            if val > 0 and not len(splits["val"]) and len(train) > 1:
                # In a small period, the document whose hash is nearest.
                splits["val"], train = train[-1:], train[:-1]
            if not len(train) or not len(splits["test"]):
                continue  # a period without text, as two months of WMT
            self.labels.append(label)
            pools[label] = train
            self.rows |= {f"{split}-{label}": r for split, r in splits.items() if len(r)}
        if len(self.labels) < 2:
            raise UserError(
                f"data: the corpus has {len(self.labels)} period(s) with text to train and test on; "
                "take shorter ones (data.by, data.every), or a larger data.test_fraction"
            )
        sizes = {label: np.cumsum(self.documents.sizes[rows]) for label, rows in pools.items()}
        least = min(int(size[-1]) for size in sizes.values())
        for label, rows in pools.items():
            # A little more than the smallest has: tokens are evened out to the last one later.
            kept = int(np.searchsorted(sizes[label], 1.1 * least)) + 1
            self.rows[f"train-{label}"] = rows[:kept]
        used = np.zeros(len(months), dtype=bool)
        for rows in self.rows.values():
            used[rows] = True
        rest = order[~used[order] & ~is_test[order] & ~is_val[order]]
        self.rows["train-base"] = rest if len(rest) else self._together("train", rank)
        for split in ("train", "val", "test"):
            together = self._together(split, rank)
            if len(together):
                self.rows[f"{split}-{ALL}"] = together
                if split != "train":
                    self.rows[f"{split}-{BASE}"] = together

    def _together(self, split: str, rank: np.ndarray) -> np.ndarray:
        parts = [self.rows.get(f"{split}-{label}", np.array([], int)) for label in self.labels]
        rows = np.concatenate(parts)
        return rows[np.argsort(rank[rows])]

    @cached_property
    def shuffled(self) -> dict[str, np.ndarray]:
        """Rows of the parts of all training text, as many as periods, of about as many bytes each."""
        rows = self.rows[f"train-{ALL}"]
        sizes = np.cumsum(self.documents.sizes[rows])
        n = len(self.labels)
        cuts = np.searchsorted(sizes, np.arange(1, n) * sizes[-1] / n)
        return {
            f"train-{SHUFFLED}{number}": part
            for number, part in enumerate(np.split(rows, cuts), start=1)
        }
