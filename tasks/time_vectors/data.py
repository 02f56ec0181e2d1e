"""A dated corpus, cut into periods of equal size, each split into training, validation and test text.

    documents (read, deduplicated, hashed) -> months -> periods -> rows of each split -> tokens -> windows

Which split a document falls into depends on its hash alone. A period's training documents stand in the
order of their hashes, which is a random one, and the first `tokens_per_period` tokens of each are
used: as many in every period. The base model reads what no period does: `base_fraction` of each
period's training documents, what a larger period has beyond the smallest, and all other times.

    period=base      that                      period=2015, 2015-2016, 2015Q3, 2015-07     one period
    period=all       all periods together      period=p1, p2, …                            the first, …
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.data.corpora import Document
from tasks.data.datamodule import TextData
from tasks.data.documents import Documents, prepare_documents
from tasks.data.files import Text
from tasks.data.packing import PackedDataset
from tasks.data.tokens import prepare_tokenizer, prepare_tokens
from tasks.errors import UserError
from tasks.time_vectors.blocks import NextBlock
from tasks.time_vectors.hub_splits import HubSplits
from tasks.time_vectors.periods import Calendar, parse_month

BASE, ALL = "base", "all"


class DatedData(TextData):
    """`TextData` of one period of a dated corpus.

    period: what to train on; see above. by, every: the length of a period. first, last: dates
    between which periods lie, e.g. 2013 and 2020-06; None is all. date_column: of the documents'
    meta; where it is missing, the date is looked for in their ids (file names). tokens_per_period:
    None is as many as the smallest period has. base_fraction: in [0, 1). template: how a document is
    written, of its text and its meta, e.g. "{text} => {section}"; None is its text alone. It changes
    neither the splits nor the tokenizer, so models tuned with and without it fit each other.
    next_block: batches with the block before, for T5.
    """

    def __init__(
        self,
        *,
        period: str | int = ALL,
        by: Literal["year", "quarter", "month"] = "year",
        every: int = 1,
        first: str | int | None = None,
        last: str | int | None = None,
        date_column: str | None = "date",
        tokens_per_period: int | None = None,
        base_fraction: float = 0.3,
        template: str | None = None,
        next_block: bool = False,
        **packing: Any,
    ):
        super().__init__(**packing)
        if not 0 <= base_fraction < 1:
            raise ValueError(f"base_fraction: must be in [0, 1), got {base_fraction}")
        if tokens_per_period is not None and tokens_per_period < 1:
            raise ValueError(f"tokens_per_period: must be at least 1, got {tokens_per_period}")
        Calendar(by, every)
        self.period = str(period)
        self.by, self.every = by, every
        self.first, self.last = _bound("first", first), _bound("last", last)
        self.date_column = date_column
        self.tokens_per_period = tokens_per_period
        self.base_fraction = base_fraction
        self.template, self.next_block = template, next_block

    @cached_property
    def dated(self) -> "Dated":
        """The periods and their documents."""
        return Dated(self, prepare_documents(self.corpus, self.cache_dir))

    @property
    def periods(self) -> list[str]:
        """Labels of the periods, in order."""
        return self.dated.labels

    @cached_property
    def label(self) -> str:
        """Of the period trained on: as in `periods`, or base, or all.

        Raises UserError for one that the corpus does not have.
        """
        known = self.dated.labels
        if self.period in (BASE, ALL, *known):
            return self.period
        number = self.period.removeprefix("p")
        if number.isdigit() and self.period.startswith("p") and 1 <= int(number) <= len(known):
            return known[int(number) - 1]
        raise UserError(
            f"data.period: {self.period} is not one of {BASE}, {ALL}, p1 to p{len(known)}, "
            f"or {', '.join(known)}"
        )

    @cached_property
    def _folder(self) -> Any:
        rows, key, documents = self.dated.rows, self.dated.key, self.dated.documents
        self.tokenizer = prepare_tokenizer(
            self.tokenizer, documents, rows["train-base"], key=key, cache=self.cache_dir
        )
        if self.template is not None:
            documents = Filled(documents.folder, self.template)
            key = {**key, "template": self.template}
        return prepare_tokens(self.tokenizer, documents, rows, key=key, cache=self.cache_dir)

    def prepare(self) -> None:
        """As in `TextData`; `train` is that of the period, `val` and `test` as well."""
        if self._datasets:
            return
        label = self.label
        datasets = {
            split: self.of_period(label, split)
            for split in ("train", "val", "test")
            if f"{split}-{label}" in self.dated.rows
        }
        self._check_size(datasets)
        self._documents, self._datasets = self.dated.documents, datasets

    def of_period(self, label: str, split: str) -> PackedDataset:
        """The windows of a period's split. Raises KeyError for one that there is not."""
        folder = self._folder
        limit = self.limits.get(split)
        if split == "train" and label != BASE:
            limit = self.equal_tokens * (len(self.periods) if label == ALL else 1)
        return (NextBlock if self.next_block else PackedDataset)(
            path=folder / f"{split}-{label}.arrow",
            context_length=self.context_length,
            cross_documents=self.cross_documents,
            max_tokens=limit,
        )

    @cached_property
    def equal_tokens(self) -> int:
        """Training tokens of every period. Raises UserError where a period has fewer than asked for."""
        have = {}
        for label in self.periods:
            path = self._folder / f"train-{label}.arrow"
            have[label] = len(PackedDataset(path=path, context_length=self.context_length).tokens)
        least = min(have, key=have.__getitem__)
        if self.tokens_per_period is None:
            return have[least] - 1
        if have[least] < self.tokens_per_period:
            raise UserError(
                f"data.tokens_per_period: {self.tokens_per_period:,} is more than the "
                f"{have[least]:,} of {least}; lower it, or take longer periods (data.every)"
            )
        return self.tokens_per_period

    def documents_of(self, label: str, split: str) -> list[Document]:
        """The documents of a period's split, those of training up to the equal size."""
        rows = self.dated.rows[f"{split}-{label}"]
        return list(self.dated.documents.read(rows))


class Dated:
    """The rows of every period's splits: {"train-2015": rows, …}, of base and all too."""

    def __init__(self, data: DatedData, documents: Documents):
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

    def _months(self, data: DatedData) -> np.ndarray:
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
        data: DatedData,
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


class Filled(Documents):
    """The same documents, written by a template over their text and meta."""

    def __init__(self, folder: Path, template: str):
        super().__init__(folder)
        self.template = template

    def texts(self, rows: np.ndarray) -> Iterator[str]:
        for document in self.read(rows):
            yield fill(self.template, document)


def fill(template: str, document: Document, **other: str) -> str:
    """A document in a template; `other` in place of its meta. Raises UserError for an unknown field."""
    fields = {**document.meta, "text": document.text, **other}
    try:
        return template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"data.template: {template!r} cannot be filled ({error!r}); a document has "
            f"{', '.join(fields)}; keep columns with data.meta_columns"
        ) from error


def _bound(name: str, value: str | int | None) -> tuple[int, int] | None:
    """First and last month that a date stands for."""
    if value is None:
        return None
    month = parse_month(str(value))
    if month is None:
        raise ValueError(f"{name}: {value!r} is no date; give e.g. 2015 or 2015-07")
    return month, month + (11 if len(str(value)) == 4 else 0)


class DatedFiles(DatedData):
    """The keys of `Text`, then those of `DatedData` but `corpus`."""

    def __init__(
        self,
        *,
        path: str | Sequence[str],
        text_column: str = "text",
        date_column: str | None = "date",
        meta_columns: Sequence[str] = (),
        encoding: str = "utf-8",
        max_documents: int | None = None,
        **settings: Any,
    ):
        columns = [] if date_column is None else [date_column]
        corpus = Text(
            path=path,
            text_column=text_column,
            meta_columns=[*columns, *(c for c in meta_columns if c not in columns)],
            encoding=encoding,
            max_documents=max_documents,
        )
        super().__init__(corpus=corpus, date_column=date_column, **settings)


class DatedHub(DatedData):
    """The keys of `HubSplits`, then those of `DatedData` but `corpus`."""

    def __init__(
        self,
        *,
        name: str,
        splits: Sequence[str] = ("train",),
        config: str | None = None,
        text_column: str = "text",
        date_column: str | None = None,
        meta_columns: Sequence[str] = (),
        months_from: int = 1,
        revision: str | None = None,
        max_documents: int | None = None,
        **settings: Any,
    ):
        corpus = HubSplits(
            name=name,
            splits=splits,
            config=config,
            text_column=text_column,
            date_column=date_column,
            meta_columns=meta_columns,
            months_from=months_from,
            revision=revision,
            max_documents=max_documents,
        )
        super().__init__(corpus=corpus, date_column="date", **settings)
