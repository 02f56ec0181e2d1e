"""Batches for one rank: an endless stream to train on, a fixed row to evaluate on.

Training step s of all ranks together reads the global sample indices
[first + s·W·B, first + (s + 1)·W·B), of which rank r takes the r-th B (W ranks, B windows each).
A worker computes whole steps, so neither workers nor ranks change what a step sees.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tasks.data.order import window_starts
from tasks.data.packing import PackedDataset

_SAMPLES_AHEAD = 1 << 13  # the order of so many at once costs little more than that of one


class TrainingStream(IterableDataset):
    """Training batches of one rank, from the global sample `first` on, without an end."""

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        seed: int,
        batch_size: int,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset = dataset
        self.seed = seed
        self.batch_size = batch_size
        self.first = first
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        step, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        tokens, length = len(self.dataset.tokens), self.dataset.context_length
        lane = self.rank * self.batch_size + np.arange(self.batch_size)
        ahead = max(1, _SAMPLES_AHEAD // self.batch_size)
        while True:
            steps = step + stride * np.arange(ahead)
            index = self.first + steps[:, None] * (self.world_size * self.batch_size) + lane
            for starts in window_starts(self.seed, index, tokens, length):
                yield self.dataset.at(starts)
            step += stride * ahead


class EvaluationBatches:
    """One rank's share of all windows of a split: batches r, r + W, … of `batch_size` windows.

    The last batch is filled up with windows that do not count, and all ranks have as many batches,
    some of which may not count at all.
    """

    def __init__(
        self, dataset: PackedDataset, *, batch_size: int, rank: int = 0, world_size: int = 1
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.dataset) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(len(self)):
            first = (step * self.world_size + self.rank) * self.batch_size
            windows = first + np.arange(self.batch_size)
            yield self.dataset.batch(np.where(windows < len(self.dataset), windows, -1))
        self.dataset.forget()


def training_loader(stream: TrainingStream, num_workers: int) -> TrainingStream | DataLoader:
    """The stream itself, or workers that read it ahead."""
    if not num_workers:
        return stream
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
        generator=torch.Generator(),  # its own, so that making a loader moves no other random draw
    )


def _as_is(batch: Any) -> Any:
    return batch
