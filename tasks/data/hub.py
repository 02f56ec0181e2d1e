"""Text from Hugging Face datasets: on the Hub, streamed from it, or in a folder."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.data.content import content_of, remember
from tasks.data.corpora import Corpus, Document
from tasks.data.files import plain
from tasks.data.hub_access import hub_commit, offline
from tasks.errors import UserError


class Hub(Corpus):
    """A split of a dataset; each row is a document.

    Args:
        name: on huggingface.co, or a folder (of `save_to_disk`, or any that `load_dataset` reads).
        config: of a dataset that has several; with a list, their rows one after the other.
        split: the dataset's own; our training, validation and test are all cut from it.
        streaming: read rows from the network instead of downloading the dataset first. The packed
            text is cached all the same, so with a large dataset give `max_documents`.
        revision: branch, tag or commit; None is the newest. The cache knows the commit.
        max_documents: read no more than the first of these (of each config).
    """

    def __init__(
        self,
        *,
        name: str,
        config: str | Sequence[str] | None = None,
        split: str = "train",
        text_column: str = "text",
        meta_columns: Sequence[str] = (),
        streaming: bool = False,
        revision: str | None = None,
        max_documents: int | None = None,
    ):
        if max_documents is not None and max_documents < 1:
            raise ValueError(f"max_documents: must be at least 1, got {max_documents}")
        self.name = name
        self.config = config if config is None or isinstance(config, str) else list(config)
        self.split = split
        self.text_column = text_column
        self.meta_columns = list(meta_columns)
        self.streaming = streaming
        self.revision = revision
        self.max_documents = max_documents

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.name).expanduser()
        return folder if folder.is_dir() else None

    @cached_property
    def _commit(self) -> str | None:
        """Of the dataset on the Hub; None where the Hub cannot be reached."""
        return hub_commit("data.name", self.name, "dataset", self.revision)

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        known = {
            "corpus": "hub",
            "config": self.config,
            "split": self.split,
            "text_column": self.text_column,
            "meta_columns": self.meta_columns,
            "max_documents": self.max_documents,
        }
        if self._folder is None:
            return {**known, "name": self.name, "commit": self._known_commit(cache_dir)}
        files = sorted(p for p in self._folder.rglob("*") if p.is_file())
        names = {p: p.relative_to(self._folder).as_posix() for p in files}
        return {**known, "content": content_of(names, cache_dir)}

    def _known_commit(self, cache_dir: Path) -> str | None:
        """The commit; without a network, the one that was last seen."""
        name = f"{self.name}@{self.revision}".replace("/", "--")
        memo = cache_dir / "commits" / name
        if self._commit is None:
            return memo.read_text() if memo.exists() else None
        remember(memo, self._commit)
        return self._commit

    def documents(self) -> Iterator[Document]:
        if not isinstance(self.config, list):
            yield from self._documents(self.config, self.split)
            return
        for config in self.config:
            yield from self._documents(config, f"{config}/{self.split}")

    def _documents(self, config: str | None, name: str) -> Iterator[Document]:
        rows = self._load(config)
        known = rows.column_names  # None where a stream does not say
        if known is not None:
            self._check_columns(known)
            rows = rows.select_columns([self.text_column, *self.meta_columns])
        for number, row in enumerate(self._read(rows)):
            self._check_columns(list(row))
            text = row[self.text_column]
            if text is None:
                continue
            if not isinstance(text, str):
                raise UserError(
                    f"data.name={self.name}: column {self.text_column!r} holds "
                    f"{type(text).__name__}, not text; set data.text_column to one that holds text"
                )
            meta = {column: plain(row[column]) for column in self.meta_columns}
            yield Document(text, f"{name}:{number}", meta)

    def _read(self, rows: Any) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            for row in itertools.islice(rows, self.max_documents):
                yield row
                number += 1
        except Exception as error:  # a network that fails, a file that is damaged
            raise UserError(
                f"data.name={self.name}: reading stopped at row {number} ({_reason(error)}); try again"
            ) from error

    def _check_columns(self, names: list[str]) -> None:
        for column in [self.text_column, *self.meta_columns]:
            if column not in names:
                key = "text_column" if column == self.text_column else "meta_columns"
                raise UserError(
                    f"data.name={self.name}: has no column {column!r}; "
                    f"set data.{key} to one of {', '.join(names)}"
                )

    def _load(self, config: str | None) -> Any:
        import datasets  # takes a second

        folder = self._folder
        try:
            if folder is not None and (folder / "state.json").exists():
                return datasets.load_from_disk(str(folder))
            if folder is not None and (folder / "dataset_dict.json").exists():
                return datasets.load_from_disk(str(folder))[self.split]
            with offline(folder is None and self._commit is None):
                return datasets.load_dataset(
                    self.name if folder is None else str(folder),
                    config,
                    split=self.split,
                    streaming=self.streaming,
                    revision=None if folder is not None else self._commit or self.revision,
                )
        except Exception as error:  # a dozen kinds; what they say is what helps
            reason = _reason(error)
            if isinstance(error, KeyError):
                reason = f"it has no split {self.split!r}"
            raise UserError(
                f"data.name={self.name}: cannot be loaded ({reason}); check data.name, data.config "
                f"({config}) and data.split ({self.split}), and the network"
            ) from error


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
