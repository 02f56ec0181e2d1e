"""The training side's numbers: loss, learning rate, gradient norm, speed."""

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tasks.base import Task


class Meter(Callback):
    """Logs means over every `every` steps, and keeps the clock of the run.

    The clock counts training alone: validation, saving and the first steps' compilation are left
    out of `tokens_per_s` but not of `seconds`. Sums are kept as tensors, so a step never waits for
    the device. What is summed so far travels in the checkpoint: a resumed run logs the same rows.
    """

    def __init__(self, *, every: int = 20, warmup_steps: int = 5):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        self.every = every
        self.warmup_steps = warmup_steps
        self.loss_sum: Tensor | float = 0.0
        self.batches = 0
        self.seconds = 0.0
        self.timed_seconds = 0.0
        self.timed_tokens = 0
        self.last: dict[str, float] = {}
        self._mark: float | None = None
        self._first_step = 0
        self._logged_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "loss_sum": float(self.loss_sum),
            "batches": self.batches,
            "seconds": self.seconds,
            "timed_seconds": self.timed_seconds,
            "timed_tokens": self.timed_tokens,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        task.train_seconds = self.seconds
        self._first_step = self._logged_step = trainer.global_step
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        self._lap(trainer)
        self._mark = None

    def on_validation_end(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        self._mark = time.perf_counter()

    def _lap(self, trainer: lightning.Trainer) -> None:
        """Moves the time since the last mark onto the clocks."""
        now = time.perf_counter()
        if self._mark is not None:
            passed = now - self._mark
            self.seconds += passed
            if trainer.global_step > self._first_step + self.warmup_steps:
                self.timed_seconds += passed
        self._mark = now

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before = self.timed_seconds
        self._lap(trainer)
        if self.timed_seconds > before:
            self.timed_tokens += task.budget.tokens_per_step // trainer.accumulate_grad_batches
        task.train_seconds = self.seconds
        self.loss_sum = (
            self.loss_sum + outputs["loss"].detach().double() * trainer.accumulate_grad_batches
        )
        self.batches += 1
        step = trainer.global_step
        limit = task.budget.max_minutes
        if limit is not None and self.seconds >= 60 * limit:
            trainer.should_stop = True
        if step % self.every == 0 and step != self._logged_step:
            self._log(trainer, task, step)

    def _log(self, trainer: lightning.Trainer, task: Task, step: int) -> None:
        loss = trainer.strategy.reduce(
            torch.as_tensor(self.loss_sum / self.batches), reduce_op="mean"
        )
        self.last = {
            **task.clock(),
            "train/loss": float(loss),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/grad_norm": float(task.grad_norm),
            "train/tokens_per_s": round(self.tokens_per_s, 1),
        }
        self.loss_sum, self.batches, self._logged_step = 0.0, 0, step
        for logger in trainer.loggers:
            logger.log_metrics(self.last, step=step)

    @property
    def tokens_per_s(self) -> float:
        """Training throughput so far over all ranks, 0 before the first timed step."""
        return self.timed_tokens / self.timed_seconds if self.timed_seconds else 0.0
