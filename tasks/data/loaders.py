"""Batches for one rank: an endless stream to train on, a fixed row to evaluate on.

Training step s of all ranks together reads the global sample indices
[first + s·W·B, first + (s + 1)·W·B), of which rank r takes the r-th B (W ranks, B windows each).
A worker computes whole steps, so neither workers nor ranks change what a step sees.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from tasks.data.order import window_starts
from tasks.data.packing import PackedDataset

_STEPS_AHEAD = 64  # computing the order of many steps at once costs little more than of one


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
        while True:
            steps = step + stride * np.arange(_STEPS_AHEAD)
            index = self.first + steps[:, None] * (self.world_size * self.batch_size) + lane
            for starts in window_starts(self.seed, index, tokens, length):
                yield self.dataset.at(starts)
            step += stride * _STEPS_AHEAD


class EvaluationBatches(Dataset):
    """All windows of a split in order, `batch_size` at a time, the last batch filled up with
    windows that do not count; and as many batches for each rank, some of which may not count."""

    def __init__(self, dataset: PackedDataset, *, batch_size: int, world_size: int = 1):
        self.dataset = dataset
        self.batch_size = batch_size
        batches = -(-len(dataset) // batch_size)
        self.batches = -(-batches // world_size) * world_size

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, Any]:
        windows = index * self.batch_size + np.arange(self.batch_size)
        return self.dataset.batch(np.where(windows < len(self.dataset), windows, -1))


class _EveryNth(DistributedSampler):
    """Rank r takes r, r + W, …; a DistributedSampler, so that Lightning leaves it alone."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


def training_loader(stream: TrainingStream, num_workers: int) -> DataLoader:
    """An endless loader."""
    return _loader(stream, num_workers)


def evaluation_loader(
    batches: EvaluationBatches, num_workers: int, rank: int, world_size: int
) -> DataLoader:
    """A loader of this rank's share."""
    sampler = _EveryNth(batches, num_replicas=world_size, rank=rank, shuffle=False)
    return _loader(batches, num_workers, sampler=sampler)


def _loader(dataset: Dataset, num_workers: int, **settings: Any) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # its own, so that making a loader moves no other random draw
        **settings,
    )


def _as_is(batch: Any) -> Any:
    return batch
