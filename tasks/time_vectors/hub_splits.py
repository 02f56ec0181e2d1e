"""Data sets of the Hub that name their periods as splits: `2014_train`, `2014_test`, `2016_9_test`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.data.corpora import Corpus, Document
from tasks.data.hub import Hub
from tasks.errors import UserError
from tasks.time_vectors.periods import parse_month


class HubSplits(Corpus):
    """Several splits of a data set, one after the other; meta has `date` and `part`, train or test.

    splits: where date_column is None, each name has a date, and "test" in those to test on.
    months_from: what January is called in them (0 in the time vectors paper's). max_documents: of each.
    """

    def __init__(
        self,
        *,
        name: str,
        splits: Sequence[str],
        config: str | None = None,
        text_column: str = "text",
        date_column: str | None = None,
        meta_columns: Sequence[str] = (),
        months_from: int = 1,
        revision: str | None = None,
        max_documents: int | None = None,
    ):
        if not splits:
            raise ValueError("splits: is empty; name at least one")
        if months_from not in (0, 1):
            raise ValueError(f"months_from: must be 0 or 1, got {months_from}")
        self.date_column, self.months_from = date_column, months_from
        columns = [] if date_column is None else [date_column]
        for split in splits:
            if date_column is None and parse_month(split, months_from=months_from) is None:
                raise ValueError(f"splits: {split} has no date; name a column with date_column")
        self.parts = {
            split: Hub(
                name=name,
                config=config,
                split=split,
                text_column=text_column,
                meta_columns=[*columns, *(c for c in meta_columns if c not in columns)],
                revision=revision,
                max_documents=max_documents,
            )
            for split in splits
        }

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        parts = [part.fingerprint(cache_dir) for part in self.parts.values()]
        return {"corpus": "hub splits", "months_from": self.months_from, "parts": parts}

    def documents(self) -> Iterator[Document]:
        for split, part in self.parts.items():
            about = {"part": "test" if "test" in split else "train"}
            if self.date_column is None:
                month = parse_month(split, months_from=self.months_from)
                assert month is not None
                about["date"] = f"{month // 12}-{month % 12 + 1:02d}"
            for document in part.documents():
                meta = {**document.meta, **about}
                if self.date_column is not None:
                    if self.date_column not in document.meta:
                        raise UserError(f"data.date_column: {self.date_column} is no column")
                    meta["date"] = str(document.meta[self.date_column])
                yield Document(document.text, f"{split}:{document.id}", meta)
