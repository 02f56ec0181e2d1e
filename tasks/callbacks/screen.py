"""What a person sees while a run trains: one live bar on a terminal, a line now and then in a log."""

import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks.base import Task
from tasks.callbacks.meter import Meter


class Screen(ProgressBar):
    """Loss, tokens/s and time left. `refresh` is in seconds; `lines` how many a log gets in all.

    It is Lightning's progress bar, so `enable_progress_bar: false` takes it away.
    """

    def __init__(self, *, refresh: float = 0.5, lines: int = 20):
        super().__init__()
        if refresh <= 0:
            raise ValueError(f"refresh: must be above 0, got {refresh}")
        self.refresh = refresh
        self.lines = max(1, lines)
        self._enabled = True
        self._progress: Progress | None = None
        self._row: TaskID | None = None
        self._shown = 0.0
        self._share = 0.0
        self._started = (0.0, 0.0)
        self._val = ""

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        share = task.budget.progress(trainer.global_step, task.train_seconds)
        self._started = (time.perf_counter(), share)
        self._share = share
        if self._enabled and trainer.is_global_zero and sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.description}"),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/] {task.fields[left]}"),
                console=Console(stderr=True),
                refresh_per_second=4,
                transient=True,
            )
            self._row = self._progress.add_task("", total=1.0, left="-")
            self._progress.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if not self._enabled or not trainer.is_global_zero or now - self._shown < self.refresh:
            return
        share = task.budget.progress(trainer.global_step, task.train_seconds)
        if self._progress is None and share - self._share < 1 / self.lines:
            return
        self._shown, self._share = now, share
        began, at = self._started
        left = (now - began) / (share - at) * (1 - share) if share > at else float("inf")
        meter = next(c for c in trainer.callbacks if isinstance(c, Meter))  # type: ignore[attr-defined]
        loss = meter.last.get("train/loss") or float(outputs["loss"])
        text = f"step {trainer.global_step}  loss {loss:.4f}{self._val}  {meter.tokens_per_s:,.0f} tokens/s"
        if self._progress is not None and self._row is not None:
            self._progress.update(self._row, completed=share, description=text, left=_clock(left))
        else:
            print(f"{share:4.0%}  {text}  {_clock(left)} left", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        value = trainer.callback_metrics.get("val/loss")
        if value is not None and not trainer.sanity_checking:
            self._val = f"  val {float(value):.4f}"

    def on_train_end(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        self._close()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        task: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
