"""A progress bar where somebody is looking, silence where the output goes to a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import MofNCompleteColumn as CountColumn


@contextmanager
def progress(what: str, total: int | None, *, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Yields `advance(amount)`; `unit="B"` counts bytes, anything else plain numbers."""
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    count = DownloadColumn() if unit == "B" else CountColumn()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)
