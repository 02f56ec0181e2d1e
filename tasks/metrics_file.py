"""metrics.csv: one row a logged step, written always, whatever other loggers there are.

The columns are `step`, `tokens`, `seconds`, then metric names as they first appear. A row is on disk
as soon as it is logged. A resumed run first cuts the rows that its checkpoint does not know of, so
the file reads as that of a run that was never stopped.
"""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

FIXED = ["step", "tokens", "seconds"]


class MetricsFile(Logger):
    """Writes `metrics.csv` in a run's folder."""

    def __init__(self, *, folder: str | Path, resume_step: int | None = None):
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns = list(FIXED)
        self._tokens_per_step: int | None = None
        if resume_step is not None and getattr(rank_zero_only, "rank", 0) == 0:
            self._cut(resume_step)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}}
        if set(row) == {"step"}:
            return
        missing = [name for name in row if name not in self._columns]
        if missing:
            self._rewrite(read_metrics(self.path), self._columns + missing)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow({k: _text(v) for k, v in row.items()})

    def _cut(self, step: int) -> None:
        rows = [row for row in read_metrics(self.path) if int(row["step"]) <= step]
        names = [name for row in rows for name in row]
        self._rewrite(rows, list(dict.fromkeys(FIXED + names)))

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        """The whole file anew with these columns, beside the old one and then in its place."""
        self._columns = columns
        beside = self.path.with_suffix(".csv.partial")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.path)


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, empty cells left out. A last line cut short by a kill is dropped."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(whole)]
