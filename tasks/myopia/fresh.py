"""Data that is computed instead of read: every sample a pure function of (seed, global sample index).

No sample repeats. A resumed run, or one on another number of devices, sees the same samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset

from tasks.data.order import mix
from tasks.data.tokenizers import Bytes, Tokenizer

# `mix` does not tell its first two arguments apart, so no stream may be a number that a seed may be.
_STREAMS = {split: int.from_bytes(split.encode(), "big") for split in ("train", "val", "test")}


class FreshData(lightning.LightningDataModule, ABC):
    """Training samples without an end, and `eval_samples` fixed ones each to validate and test on.

    A subclass says what the samples of some indices are: `draw(split, indices) -> batch`.

    batch_size: samples of one step on one device. seed: of the training samples; validation and
    test are the same for every seed. eval_batch_size: None is batch_size.
    """

    def __init__(
        self,
        *,
        context_length: int,
        batch_size: int,
        seed: int = 0,
        eval_samples: int = 2048,
        eval_batch_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__()
        for name, value in (
            ("context_length", context_length),
            ("batch_size", batch_size),
            ("eval_samples", eval_samples),
            ("eval_batch_size", eval_batch_size),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.eval_samples = eval_samples
        self.eval_batch_size = eval_batch_size or batch_size
        self.tokenizer = Bytes() if tokenizer is None else tokenizer
        self._resumed = {"samples_seen": 0, "global_step": 0}

    @abstractmethod
    def draw(self, split: str, indices: np.ndarray) -> dict[str, Tensor]:
        """The batch of these samples."""

    def bits(self, split: str, indices: np.ndarray, count: int) -> np.ndarray:
        """(B, count) random uint64 of each sample, the same wherever it is drawn."""
        seed = self.seed if split == "train" else 0
        return mix(seed, _STREAMS[split], indices[:, None], np.arange(count)[None])

    # ---- loaders

    @property
    def samples_seen(self) -> int:
        """Samples that all ranks together have trained on."""
        if self.trainer is None:
            return self._resumed["samples_seen"]
        per_step = self.batch_size * self.trainer.accumulate_grad_batches * self.trainer.world_size
        steps = self.trainer.global_step - self._resumed["global_step"]
        return self._resumed["samples_seen"] + steps * per_step

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: nothing but where in the order training is."""
        step = 0 if self.trainer is None else self.trainer.global_step
        return {"samples_seen": self.samples_seen, "global_step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._resumed = {k: int(state_dict[k]) for k in self._resumed}

    def train_dataloader(self) -> "_Stream":
        """Endless, from `samples_seen` on."""
        rank, world = self._ranks()
        return _Stream(self, self.samples_seen + rank * self.batch_size, world * self.batch_size)

    def val_dataloader(self) -> "_Fixed":
        """The validation samples."""
        return _Fixed(self, "val", *self._ranks())

    def test_dataloader(self) -> "_Fixed":
        """The test samples."""
        return _Fixed(self, "test", *self._ranks())

    def _ranks(self) -> tuple[int, int]:
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )


class _Stream(IterableDataset):
    def __init__(self, data: FreshData, first: int, stride: int):
        self.data, self.first, self.stride = data, first, stride

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        first = self.first
        while True:
            yield self.data.draw("train", np.arange(first, first + self.data.batch_size))
            first += self.stride


class _Fixed:
    """One rank's share of the samples of a split."""

    def __init__(self, data: FreshData, split: str, rank: int, world: int):
        self.data, self.split = data, split
        self.indices = np.arange(data.eval_samples // world * world)[rank::world]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.data.eval_batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        size = self.data.eval_batch_size
        for first in range(0, len(self.indices), size):
            yield self.data.draw(self.split, self.indices[first : first + size])


def uniform(bits: np.ndarray) -> np.ndarray:
    """uint64 as float64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53


def normal(bits: np.ndarray) -> np.ndarray:
    """(B, 2n) uint64 as (B, n) standard normals (Box and Muller 1958)."""
    a, b = np.split(uniform(bits), 2, axis=1)
    return np.sqrt(-2 * np.log1p(-a)) * np.cos(2 * np.pi * b)
