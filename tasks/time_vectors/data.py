"""A dated corpus, cut into periods of equal size, each split into training, validation and test text.

    documents (read, deduplicated, hashed) -> months -> periods -> rows of each split -> tokens -> windows

Which split a document falls into depends on its hash alone. A period's training documents stand in the
order of their hashes, which is a random one, and the first `tokens_per_period` tokens of each are
used: as many in every period. The base model reads what no period does: `base_fraction` of each
period's training documents, what a larger period has beyond the smallest, and all other times.

    period=base      that                      period=2015, 2015-2016, 2015Q3, 2015-07     one period
    period=all       all periods together      period=p1, p2, …                            the first, …
    period=s1, s2, … a control: as much text as a period, drawn from all of them, dates forgotten
    period=o1, o2, … the text of p1, p2, …, for a model tuned from o1 on, one after the other (`task`)
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.data.corpora import Document
from tasks.data.datamodule import TextData
from tasks.data.documents import Documents, prepare_documents
from tasks.data.files import Text
from tasks.data.order import windows_per_epoch
from tasks.data.packing import PackedDataset
from tasks.data.tokens import prepare_tokenizer, prepare_tokens
from tasks.errors import UserError
from tasks.time_vectors.blocks import NextBlock
from tasks.time_vectors.cut import ALL, BASE, ONLINE, SHUFFLED, Dated
from tasks.time_vectors.examples import Examples
from tasks.time_vectors.hub_splits import HubSplits
from tasks.time_vectors.periods import Calendar, parse_month
from tasks.time_vectors.template import Filled


class DatedData(TextData):
    """`TextData` of one period of a dated corpus.

    period: what to train on; see above. by, every: the length of a period. first, last: dates
    between which periods lie, e.g. 2013 and 2020-06; None is all. date_column: of the documents'
    meta; where it is missing, the date is looked for in their ids (file names). tokens_per_period:
    None is as many as the smallest period has. base_fraction: in [0, 1). template: how a document is
    written, of its text and its meta, e.g. "{text} => {section}"; None is its text alone. It changes
    neither the splits nor the tokenizer, so models tuned with and without it fit each other.
    next_block: batches with the block before, for T5. examples: batches of documents, for T5 too: it
    reads the template up to its last field and writes that, `answer_length` tokens at most.
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
        examples: bool = False,
        answer_length: int = 128,
        **packing: Any,
    ):
        super().__init__(**packing)
        if not 0 <= base_fraction < 1:
            raise ValueError(f"base_fraction: must be in [0, 1), got {base_fraction}")
        if tokens_per_period is not None and tokens_per_period < 1:
            raise ValueError(f"tokens_per_period: must be at least 1, got {tokens_per_period}")
        if answer_length < 1:
            raise ValueError(f"answer_length: must be at least 1, got {answer_length}")
        if examples and (next_block or template is None):
            raise ValueError(
                "examples: needs a template that ends with the answer's field, and no next_block"
            )
        Calendar(by, every)
        self.period = str(period)
        self.by, self.every = by, every
        self.first, self.last = _bound("first", first), _bound("last", last)
        self.date_column = date_column
        self.tokens_per_period = tokens_per_period
        self.base_fraction = base_fraction
        self.template, self.next_block = template, next_block
        self.examples, self.answer_length = examples, answer_length

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
        kind, number = self.period[:1], self.period[1:]
        if kind in "pso" and number.isdigit() and 1 <= int(number) <= len(known):
            label = known[int(number) - 1]
            return {"p": label, "s": SHUFFLED + number, "o": ONLINE + label}[kind]
        raise UserError(
            f"data.period: {self.period} is not one of {BASE}, {ALL}, p1 to p{len(known)} "
            f"(also s1, o1, …), or {', '.join(known)}"
        )

    @cached_property
    def _folders(self) -> list[Path]:
        """Of the tokens; of prompts and answers apart where they are examples."""
        self.tokenizer = prepare_tokenizer(
            self.tokenizer,
            self.dated.documents,
            self.dated.rows["train-base"],
            key=self.dated.key,
            cache=self.cache_dir,
        )
        return self._prepare_tokens(self.dated.rows, {})

    @cached_property
    def _shuffled(self) -> list[Path]:
        """The same of the control, which few need."""
        _ = self._folders  # the tokenizer comes first
        return self._prepare_tokens(self.dated.shuffled, {"shuffled": 1})

    def _prepare_tokens(self, rows: dict[str, np.ndarray], of: dict[str, Any]) -> list[Path]:
        documents, key = self.dated.documents, {**self.dated.key, **of}
        written: list[tuple[Documents, dict[str, Any]]] = [(documents, key)]
        if self.template is not None:
            filled = {**key, "template": self.template}
            written = [(Filled(documents.folder, self.template), filled)]
            if self.examples:
                written = [
                    (Filled(documents.folder, self.template, "prompt"), {**filled, "part": 0}),
                    (Filled(documents.folder, self.template, "answer"), {**filled, "part": 1}),
                ]
        return [
            prepare_tokens(self.tokenizer, documents, rows, key=key, cache=self.cache_dir)
            for documents, key in written
        ]

    def prepare(self) -> None:
        """As in `TextData`; `train` is that of the period, `val` and `test` as well."""
        if self._datasets:
            return
        label = self.label
        datasets = {
            split: self.of_period(label, split)
            for split in ("train", "val", "test")
            if split == "train" or self._name(label, split) in self.dated.rows
        }
        self._check_size(datasets)
        self._documents, self._datasets = self.dated.documents, datasets

    def _name(self, label: str, split: str) -> str:
        """Of the rows: what is tuned online reads the period's, what is shuffled is judged on all."""
        label = label.removeprefix(ONLINE)
        return f"{split}-{ALL if label.startswith(SHUFFLED) and split != 'train' else label}"

    def _check_size(self, datasets: dict[str, PackedDataset]) -> None:
        train = datasets["train"]
        count = windows_per_epoch(len(train.tokens), self.context_length)
        if self.examples and count < self.batch_size:
            raise UserError(
                f"data: the training split has {count} examples, fewer than one batch; lower "
                "data.batch_size, or take longer periods (data.every)"
            )
        super()._check_size(datasets)

    def of_period(self, label: str, split: str) -> PackedDataset:
        """The windows of a period's split. Raises KeyError for one that there is not."""
        limit = self.limits.get(split)
        if split == "train" and label != BASE:
            limit = self.equal_tokens * (len(self.periods) if label == ALL else 1)
        return self._open(self._name(label, split), limit)

    def _open(self, name: str, limit: int | None) -> PackedDataset:
        folders = self._shuffled if SHUFFLED in name else self._folders
        paths = [folder / f"{name}.arrow" for folder in folders]
        if self.examples:
            return Examples(
                path=paths[0],
                answers=paths[1],
                context_length=self.context_length,
                answer_length=self.answer_length,
                max_tokens=limit,
            )
        return (NextBlock if self.next_block else PackedDataset)(
            path=paths[0],
            context_length=self.context_length,
            cross_documents=self.cross_documents,
            max_tokens=limit,
        )

    @cached_property
    def equal_tokens(self) -> int:
        """Training tokens of every period. Raises UserError where a period has fewer than asked for."""
        have = {}
        for label in self.periods:
            dataset = self._open(f"train-{label}", None)
            # The first token of all is predicted from nothing.
            have[label] = dataset.size if isinstance(dataset, Examples) else len(dataset.tokens) - 1
        least = min(have, key=have.__getitem__)
        if self.tokens_per_period is None:
            return have[least]
        if have[least] < self.tokens_per_period:
            raise UserError(
                f"data.tokens_per_period: {self.tokens_per_period:,} is more than the "
                f"{have[least]:,} of {least}; lower it, or take longer periods (data.every)"
            )
        return self.tokens_per_period

    def baselines(self) -> dict[str, float]:
        """As in `TextData`; none of answers, which are no running text."""
        return {} if self.examples else super().baselines()

    def documents_of(self, label: str, split: str) -> list[Document]:
        """The documents of a period's split, those of training up to the equal size."""
        rows = self.dated.rows[f"{split}-{label}"]
        return list(self.dated.documents.read(rows))


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
