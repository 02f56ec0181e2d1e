"""Batches of about equal cost from samples of very different length.

A batch holds as many samples as fit into `tokens` when all are filled up to the longest of them, so a
step costs the same whichever set it is drawn from: budgets counted in tokens are comparable. To waste
little on filling up, an epoch's order (tasks.data.order) is taken in chunks, each chunk sorted by
length, cut into batches, and these shuffled. Which batch is the k-th depends on (seed, k) alone.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from tasks.code_execution.curriculum import Curriculum
from tasks.code_execution.encoded import Encoded, Layout
from tasks.data.order import mix, order
from tasks.data.packing import IGNORED

_CHUNK = 2048


def cut(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Indices of samples, shortest first, cut into batches of at most `tokens` once filled up.

    A sample that is longer than that is a batch of its own.
    """
    by_length = np.argsort(lengths, kind="stable")
    batches, first = [], 0
    for i in range(1, len(by_length) + 1):
        if i == len(by_length) or (i - first + 1) * lengths[by_length[i]] > tokens:
            batches.append(by_length[first:i])
            first = i
    return batches


class Plan:
    """The endless row of batches of some samples; `rows` numbers them among all of the split."""

    def __init__(self, lengths: np.ndarray, rows: np.ndarray, *, seed: int, tokens: int):
        self.lengths, self.rows, self.seed, self.tokens = lengths, rows, seed, tokens
        self._chunk = -1
        self._first = 0  # number of the chunk's first batch
        self._batches: list[np.ndarray] = []

    def batch(self, k: int) -> np.ndarray:
        """Rows of the k-th batch. Cheap where k grows from call to call."""
        if k < self._first:
            self._chunk, self._first, self._batches = -1, 0, []
        while k >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._chunk += 1
            self._batches = self._cut(self._chunk)
        return self._batches[k - self._first]

    def _cut(self, chunk: int) -> list[np.ndarray]:
        size = len(self.rows)
        width = min(_CHUNK, size)
        per_epoch = -(-size // width)
        epoch, part = divmod(chunk, per_epoch)
        places = np.arange(part * width, min((part + 1) * width, size))
        rows = self.rows[order(self.seed, epoch * size + places, size)]
        batches = cut(self.lengths[rows], self.tokens)
        keys = mix(self.seed, 2, chunk, np.arange(len(batches)))
        return [rows[batches[i]] for i in np.argsort(keys)]


class TraceStream(IterableDataset):
    """Training batches of one rank, from micro-batch `first` on, without an end."""

    def __init__(
        self,
        encoded: dict[str, Encoded],
        layout: Layout,
        curriculum: Curriculum,
        *,
        seed: int,
        tokens: int,
        steps: int,
        accumulate: int = 1,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.encoded, self.layout, self.curriculum = encoded, layout, curriculum
        self.seed, self.tokens, self.steps, self.accumulate = seed, tokens, steps, accumulate
        self.first, self.rank, self.world_size = first, rank, world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        plans = []
        for i, (name, hard) in enumerate(self.curriculum.streams()):
            of = self.encoded[name]
            rows = np.flatnonzero(of.hard) if hard else np.arange(len(of))
            plans.append(Plan(of.lengths, rows, seed=self.seed + i, tokens=self.tokens))
        names = [name for name, _ in self.curriculum.streams()]
        taken = np.bincount(self._draws(0, self.first), minlength=len(plans))
        micro = self.first
        while True:
            for stream in self._draws(micro, micro + _CHUNK):
                number = int(taken[stream]) * self.world_size + self.rank
                rows = plans[stream].batch(number)
                taken[stream] += 1
                yield self.encoded[names[stream]].batch(rows, self.layout)
            micro += _CHUNK

    def _draws(self, first: int, last: int) -> np.ndarray:
        return self.curriculum.draws(
            np.arange(first, last), seed=self.seed, accumulate=self.accumulate, steps=self.steps
        )


class EvaluationBatches:
    """One rank's share of the batches (set, rows): those of number r, r + W, ...

    All ranks have as many; what a rank has too many of is read and not counted.
    """

    def __init__(
        self,
        encoded: dict[str, Encoded],
        layout: Layout,
        batches: list[tuple[str, np.ndarray]],
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.encoded, self.layout, self.batches = encoded, layout, batches
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-len(self.batches) // self.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(len(self)):
            number = step * self.world_size + self.rank
            name, rows = self.batches[number % len(self.batches)]
            batch: dict[str, Any] = {"set": name, **self.encoded[name].batch(rows, self.layout)}
            if number >= len(self.batches):
                batch["targets_BT"].fill_(IGNORED)
            yield batch
