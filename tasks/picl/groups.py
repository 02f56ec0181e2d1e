"""What the in-context half of a batch is made of: sequences of token ids, and which of them count.

`Retrieved` builds PICL's instances (Gu et al. 2023 §3.3, in the order of the released code):

    1. every paragraph: its first `cut` tokens and a line end
    2. while query + neighbours reach the context length, the farthest neighbour goes
    3. at most `shots` neighbours stay, the nearest
    4. they are shuffled by (seed, query); the query stands last     (order=nearest_last: as in Eq. 3)

with the loss on all tokens (`loss=last`: of the query alone). No document end stands before or between.
Instances are built when they are read: what is kept is numbers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.data.datamodule import TextData
from tasks.data.stage import stage
from tasks.data.tokenizers import Tokenizer
from tasks.errors import UserError
from tasks.picl.filter import Filter
from tasks.picl.labelled import Labelled
from tasks.picl.neighbours import Finder, Neighbours
from tasks.picl.paragraphs import Paragraphs, prepare_paragraphs
from tasks.picl.recall import measure


@dataclass(frozen=True)
class Sequence:
    """tokens: ids (n,). counted: which of them are predicted (n,) bool. firsts: where parts begin."""

    tokens: np.ndarray
    counted: np.ndarray
    firsts: np.ndarray


def join(parts: list[np.ndarray], counted: list[bool | np.ndarray]) -> Sequence:
    """Parts end to end, each counted whole, not at all, or token by token."""
    lengths = [len(part) for part in parts]
    flags = [np.broadcast_to(np.asarray(c), (n,)) for c, n in zip(counted, lengths)]
    firsts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return Sequence(np.concatenate(parts).astype(np.int64), np.concatenate(flags), firsts)


class Groups(ABC):
    """Sequences shorter than the context length, numbered from 0; each one depends on its number."""

    @abstractmethod
    def prepare(self, data: TextData, *, context_length: int, seed: int) -> None:
        """Builds whatever is missing, before training starts."""

    @abstractmethod
    def __len__(self) -> int:
        """How many different ones there are."""

    @abstractmethod
    def sequence(self, number: int) -> Sequence:
        """One of them."""

    def report(self) -> dict[str, Any]:
        """Measurements for results.json."""
        return {}


class Retrieved(Groups):
    """A paragraph after its neighbours. See above.

    finder: where the neighbours come from. neighbours: how many are asked for (the paper's k; the
    released code's 20 include the query). queries: how many paragraphs serve as queries, a random
    sample; None: all. glue, longest, shard_bytes: see `prepare_paragraphs`. filter: see
    `tasks.picl.filter`.
    """

    def __init__(
        self,
        *,
        finder: Finder,
        neighbours: int = 20,
        shots: int = 16,
        cut: int = 255,
        order: Literal["shuffled", "nearest_last"] = "shuffled",
        loss: Literal["all", "last"] = "all",
        queries: int | None = None,
        filter: Filter | None = None,
        glue: int = 128,
        longest: int | None = 500,
        shard_bytes: int = 1 << 26,
    ):
        for name, value in (
            ("neighbours", neighbours),
            ("shots", shots),
            ("cut", cut),
            ("queries", queries),
            ("glue", glue),
            ("longest", longest),
            ("shard_bytes", shard_bytes),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if order not in ("shuffled", "nearest_last"):
            raise ValueError(f"order: must be shuffled or nearest_last, got {order!r}")
        if loss not in ("all", "last"):
            raise ValueError(f"loss: must be all or last, got {loss!r}")
        self.finder, self.filter = finder, filter
        self.neighbours, self.shots, self.cut = neighbours, shots, cut
        self.order, self.loss, self.num_queries = order, loss, queries
        self.cutting: dict[str, Any] = {
            "glue": glue,
            "longest": longest,
            "shard_bytes": shard_bytes,
        }
        self.kept_share = 1.0

    def prepare(self, data: TextData, *, context_length: int, seed: int) -> None:
        self.tokenizer, self.seed, self.context_length = data.tokenizer, seed, context_length
        self.line_end = line_end(data.tokenizer)
        self.seen: set[int] = getattr(data.corpus, "seen_tasks", set())
        self.paragraphs: Paragraphs = prepare_paragraphs(data, **self.cutting)
        self.found: Neighbours = self.finder.prepare(
            self.paragraphs, self.neighbours, data.tokenizer, data.cache_dir
        )
        folder = stage(data.cache_dir, "picl-queries", self._key(), lambda to: self._choose(to))
        self.queries: np.ndarray = np.load(folder / "queries.npy", mmap_mode="r")
        if not len(self.queries):
            raise UserError("task.groups: no paragraph has a neighbour that fits the context")
        if self.filter is not None:
            before = len(self.queries)
            self.queries = self.filter.keep(self, folder.name, data.cache_dir)
            self.kept_share = len(self.queries) / before
            if not len(self.queries):
                raise UserError(
                    "task.groups.filter: every group was dropped; lower task.groups.filter.delta, or "
                    "give a scorer that has learned to use its context"
                )

    def _key(self) -> dict[str, Any]:
        return {
            "neighbours": self.found.names,
            "context_length": self.context_length,
            "seed": self.seed,
            "build": [self.shots, self.cut, self.order, self.num_queries],
        }

    def _choose(self, folder: Path) -> None:
        """Queries that have a neighbour beside them in the context."""
        total = len(self.paragraphs)
        numbers = np.arange(total)
        if self.num_queries is not None and self.num_queries < total:
            draw = np.random.default_rng((self.seed, 3))
            numbers = np.sort(draw.choice(total, self.num_queries, replace=False))
        fitting = np.array([len(self.members(int(i))) > 1 for i in numbers], dtype=bool)
        np.save(folder / "queries.npy", numbers[fitting])

    def __len__(self) -> int:
        return len(self.queries)

    def members(self, query: int) -> list[int]:
        """Paragraphs of the query's instance in the order in which they are read, the query last."""
        near = self.found.of(query).tolist()
        sizes = [self._size(i) for i in near]
        total = self._size(query) + sum(sizes)
        while near and total >= self.context_length:
            near.pop()
            total -= sizes.pop()
        near = near[: self.shots]
        if self.order == "shuffled":
            draw = np.random.default_rng((self.seed, query))
            near = [near[i] for i in draw.permutation(len(near))]
        else:
            near.reverse()
        return [*near, query]

    def _size(self, i: int) -> int:
        return min(len(self.paragraphs.tokens(i)), self.cut) + len(self.line_end)

    def part(self, i: int) -> np.ndarray:
        """A paragraph as it stands in an instance."""
        return np.concatenate((self.paragraphs.tokens(i)[: self.cut], self.line_end))

    def sequence(self, number: int) -> Sequence:
        parts = [self.part(i) for i in self.members(int(self.queries[number]))]
        return join(parts, [self.loss == "all" or i == len(parts) - 1 for i in range(len(parts))])

    def report(self) -> dict[str, Any]:
        sample = np.random.default_rng((self.seed, 4)).choice(
            len(self.queries), min(512, len(self.queries)), replace=False
        )
        counts = [len(self.members(int(self.queries[i]))) for i in sample]
        found = self.finder.report()
        return {
            "retrieval/paragraphs": len(self.paragraphs),
            "retrieval/paragraphs_per_group": float(np.mean(counts)),
            "retrieval/kept_share": self.kept_share,
            **({"retrieval/index_recall": found["recall"]} if "recall" in found else {}),
            **measure(self.paragraphs, self.found, self.seen),
        }


class MetaICL(Groups):
    """Labelled rows of one task in one template, the last one to be answered (Min et al. 2022).

    loss: `answer` counts the last row's label alone (the paper), `all` every token.
    rows: the last one included; as many as fit. sequences: how many different ones are drawn.
    """

    def __init__(
        self,
        *,
        examples: Labelled,
        rows: int = 17,
        loss: Literal["answer", "all"] = "answer",
        max_tokens: int = 256,
        sequences: int = 100_000,
    ):
        for name, value, least in (
            ("rows", rows, 2), ("max_tokens", max_tokens, 1), ("sequences", sequences, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if loss not in ("answer", "all"):
            raise ValueError(f"loss: must be answer or all, got {loss!r}")
        self.examples, self.rows, self.loss = examples, rows, loss
        self.max_tokens, self.sequences = max_tokens, sequences

    def prepare(self, data: TextData, *, context_length: int, seed: int) -> None:
        self.tokenizer, self.context_length, self.seed = data.tokenizer, context_length, seed
        self.line_end = line_end(data.tokenizer)
        self.tasks = self.examples.train
        self.sequence(0)  # what does not fit shows before training

    def __len__(self) -> int:
        return self.sequences

    def sequence(self, number: int) -> Sequence:
        draw = np.random.default_rng((self.seed, 5, number))
        task = self.tasks[int(draw.integers(len(self.tasks)))]
        template = task.templates[int(draw.integers(len(task.templates)))]
        before, _, after = template.partition("{label}")
        parts: list[np.ndarray] = []
        counted: list[bool | np.ndarray] = []
        total = 0
        for i in draw.permutation(len(task.rows))[: self.rows]:
            row = task.rows[int(i)]
            asked = self.tokenizer.encode(before.format(**row).rstrip())
            answer = self.tokenizer.encode(f" {row['label']}{after}".format(**row))
            part = np.concatenate((asked, answer, self.line_end))
            if len(part) > self.max_tokens:
                continue
            if total + len(part) >= self.context_length:
                break
            total += len(part)
            parts.append(part)
            counted.append(np.arange(len(part)) >= len(asked))
        if not parts:
            raise UserError(
                f"task.groups: no row of {task.name} fits the context of {self.context_length} tokens"
            )
        if self.loss == "all":
            return join(parts, [True] * len(parts))
        return join(parts, [*([False] * (len(parts) - 1)), counted[-1]])


def line_end(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a line end, which stands after every paragraph and every demonstration."""
    return tokenizer.encode("\n")
