"""Documents written by a template over their text and meta, and the answer that it may end with.

"{text} => {section}"     prompt  "… => "     answer  the section     whole  one after the other
"""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.data.corpora import Document
from tasks.data.documents import Documents
from tasks.errors import UserError


class Filled(Documents):
    """The same documents, written by a template; of the two parts one alone where asked."""

    def __init__(
        self,
        folder: Path,
        template: str,
        part: Literal["whole", "prompt", "answer"] = "whole",
    ):
        super().__init__(folder)
        self.template, self.part = template, part

    def texts(self, rows: np.ndarray) -> Iterator[str]:
        for document in self.read(rows):
            if self.part == "whole":
                yield fill(self.template, document)
            else:
                yield prompt(self.template, document)[self.part == "answer"]


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


def answer_column(template: str) -> str:
    """The field that a template ends with. Raises UserError where it ends otherwise."""
    fields = [(name, after) for after, name, *_ in string.Formatter().parse(template)]
    name = fields[-1][0] if fields else None
    if name in (None, "text"):
        raise UserError(f"data.template: {template!r} must end with the field to be predicted")
    return str(name)


def prompt(template: str, document: Document) -> tuple[str, str]:
    """What stands before the answer, and the answer."""
    column = answer_column(template)
    if column not in document.meta:
        raise UserError(
            f"data.template: a document has no {column}; keep it with data.meta_columns"
        )
    return fill(template, document, **{column: ""}), str(document.meta[column])
