"""Saves `last.ckpt` and `best.ckpt`, and stops cleanly on SIGTERM."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Checkpoints(Callback):
    """`last` every `every` steps and after each validation; `best` by the lowest `monitor`.

    A save falls between two steps, before the next batch is touched, where a resumed run starts.
    """

    def __init__(self, *, folder: str | Path, every: int = 500, monitor: str = "val/loss"):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        self.folder = Path(folder)
        self.every = every
        self.monitor = monitor
        self.best: float | None = None
        self.best_step: int | None = None
        self._saved_step = -1
        self._due = False
        self._improved = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]

    def on_fit_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        self._saved_step = trainer.global_step

    def on_validation_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._due = True
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and (self.best is None or float(value) < self.best):
            self.best, self.best_step = float(value), trainer.global_step
            self._improved = True

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step != self._saved_step and (self._due or step % self.every == 0):
            self._save(trainer)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Lightning has counted the batch that waits as begun; a resumed run must begin it anew."""
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count |= dict.fromkeys(("ready", "started", "processed"), count["completed"])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.received_sigterm:
            self._due = True  # Lightning stops after this batch; `on_exception` saves

    def on_exception(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        if trainer.received_sigterm and self._due:
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        """Every rank must call this: sharded strategies gather the weights together."""
        last = self.folder / "last.ckpt"
        if trainer.is_global_zero and last.is_file():
            _link(last, self.folder / "previous.ckpt")
        trainer.save_checkpoint(last, weights_only=False)  # optimiser and loops too
        if self._improved and trainer.is_global_zero:
            _link(last, self.folder / "best.ckpt")
        self._saved_step, self._due, self._improved = trainer.global_step, False, False


def _link(source: Path, target: Path) -> None:
    """`target` becomes another name of `source`'s content, at one stroke, a copy where links fail."""
    beside = target.with_suffix(".linking")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    os.replace(beside, target)
