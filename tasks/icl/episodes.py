"""What is compared: a few demonstrations, and the queries that they are to help with, as token ids.

    ICL prompt        start  (question answer separator) x k  question
    zero-shot prompt  start  question
    training text     start  question answer                     one a demonstration

A family of tasks (a data module with `episodes(split)`) yields them: "dev" for choosing a learning
rate, "test" for measuring.
"""

from dataclasses import dataclass
from typing import Protocol

from tasks.icl.fewshot import Encoded, Ids


@dataclass(frozen=True)
class Episode:
    """One draw of demonstrations with its queries."""

    start: Ids
    separator: Ids
    demonstrations: list[Encoded]
    queries: list[Encoded]

    @property
    def context(self) -> Ids:
        """What stands before the query in context: the start and the demonstrations."""
        between = [[*d.question, *d.answer, *self.separator] for d in self.demonstrations]
        return [*self.start, *(i for part in between for i in part)]

    def training_texts(self) -> list[Ids]:
        """What fine-tuning reads, in the order of the demonstrations."""
        return [[*self.start, *d.question, *d.answer] for d in self.demonstrations]

    def demonstration_places(self) -> list[int]:
        """Positions in `context` of the demonstrations' own tokens: no start, no separators."""
        places: list[int] = []
        at = len(self.start)
        for d in self.demonstrations:
            size = len(d.question) + len(d.answer)
            places += range(at, at + size)
            at += size + len(self.separator)
        return places


class Episodes(Protocol):
    """A data module that has tasks to learn in context."""

    def episodes(self, split: str) -> list[Episode]:
        """Those of "dev" or "test"; the same at every call."""
        ...
