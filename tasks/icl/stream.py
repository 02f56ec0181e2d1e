"""Training data made on the spot, without an end: what a family of made-up tasks shares.

Sample i is a function of (seed, i) alone, so a resumed run, another batch size or another number of
ranks sees the same samples.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import numpy as np

Batch = dict[str, Any]
HELD_OUT = {"val": 1, "test": 2}  # streams of their own, beside that of training (0)


class Stream:
    """Batches of one rank from sample `first` on, without an end."""

    def __init__(
        self,
        batch: Callable[[np.ndarray], Batch],
        *,
        batch_size: int,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.batch, self.batch_size, self.first = batch, batch_size, first
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        for step in itertools.count():
            start = self.first + (step * self.world_size + self.rank) * self.batch_size
            yield self.batch(start + np.arange(self.batch_size))


class Beginning:
    """The first `count` batches of a stream, the same at every reading."""

    def __init__(self, stream: Stream, count: int):
        self.stream, self.count = stream, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self.stream, self.count)


class MadeUp(lightning.LightningDataModule, ABC):
    """A family of tasks: subclasses say what a sample is.

    Args:
        batch_size: samples of one step on one device.
        seed: of the training samples.
        eval_samples: of validation, and of the test; the same in every run.
    """

    tokenizer: Any

    def __init__(self, *, batch_size: int, seed: int, eval_samples: int):
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_samples", eval_samples)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.batch_size, self.seed, self.eval_samples = batch_size, seed, eval_samples
        self._resumed = {"samples_seen": 0, "global_step": 0}

    @abstractmethod
    def sample(self, draw: np.random.Generator) -> Any:
        """One sample."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> Batch:
        """A batch of them."""

    def batch(self, index: np.ndarray, *, stream: int = 0) -> Batch:
        """The samples of the given numbers."""
        seed = self.seed if stream == 0 else 0  # held-out samples are the same in every run
        draws = [np.random.default_rng([seed, stream, int(i)]) for i in index]
        return self.collate([self.sample(draw) for draw in draws])

    @property
    def samples_seen(self) -> int:
        """Samples that all ranks together have trained on."""
        if self.trainer is None:
            return self._resumed["samples_seen"]
        steps = self.trainer.global_step - self._resumed["global_step"]
        per_step = self.batch_size * self.trainer.accumulate_grad_batches * self._ranks()[1]
        return self._resumed["samples_seen"] + steps * per_step

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: where in the stream training is."""
        step = 0 if self.trainer is None else self.trainer.global_step
        return {"samples_seen": self.samples_seen, "global_step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._resumed = {k: int(state_dict[k]) for k in self._resumed}

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> Stream:
        rank, world_size = self._ranks()
        return Stream(
            self.batch,
            batch_size=self.batch_size,
            first=self.samples_seen,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> Beginning:
        return self._evaluation("val")

    def test_dataloader(self) -> Beginning:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Beginning:
        rank, world_size = self._ranks()
        size = min(self.batch_size, self.eval_samples)
        stream = Stream(
            lambda index: self.batch(index, stream=HELD_OUT[split]),
            batch_size=size,
            rank=rank,
            world_size=world_size,
        )
        return Beginning(stream, -(-self.eval_samples // (size * world_size)))
