"""`TextData` over a kind of corpus, with that corpus's keys beside its own.

They are what lets the command line say `data=text data.path=…` and `data=hub data.name=…`.
"""

from collections.abc import Sequence
from typing import Any

from tasks.data.datamodule import TextData
from tasks.data.files import Text
from tasks.data.hub import Hub


class FileData(TextData):
    """The keys of `Text`, then those of `TextData` but `corpus`."""

    def __init__(
        self,
        *,
        path: str | Sequence[str],
        text_column: str = "text",
        meta_columns: Sequence[str] = (),
        separator: str | None = None,
        document_size: int | None = None,
        encoding: str = "utf-8",
        max_documents: int | None = None,
        **packing: Any,
    ):
        corpus = Text(
            path=path,
            text_column=text_column,
            meta_columns=meta_columns,
            separator=separator,
            document_size=document_size,
            encoding=encoding,
            max_documents=max_documents,
        )
        super().__init__(corpus=corpus, **packing)


class HubData(TextData):
    """The keys of `Hub`, then those of `TextData` but `corpus`."""

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
        **packing: Any,
    ):
        corpus = Hub(
            name=name,
            config=config,
            split=split,
            text_column=text_column,
            meta_columns=meta_columns,
            streaming=streaming,
            revision=revision,
            max_documents=max_documents,
        )
        super().__init__(corpus=corpus, **packing)
