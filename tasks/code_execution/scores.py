"""Predictions and their scores: the percentages of a test, per construct, and the file that keeps them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tasks.code_execution.constructs import CONSTRUCTS, constructs
from tasks.code_execution.formats import SETS
from tasks.code_execution.metrics import Counts, count, percentages, total

SINGLE_LINE = SETS[0]
_COLUMNS = {  # metric -> title
    "output_accuracy": "output",
    "trace_accuracy": "trace",
    "line_precision": "line P",
    "line_recall": "R",
    "line_f1": "F1",
    "identifier_precision": "name P",
    "identifier_recall": "R",
    "identifier_f1": "F1",
}


@dataclass(frozen=True)
class Prediction:
    """One program of a test: what its trace is, and what the model says."""

    id: str
    source_set: str
    code: str
    reference: str
    prediction: str
    source_id: str = ""
    problem_id: str = ""

    @property
    def counts(self) -> Counts:
        """Its part of the sums; lenient, so that they always add up to percentages."""
        single = self.source_set == SINGLE_LINE
        return count(self.prediction, self.reference, single_line=single, strict=False)


def score(predictions: Iterable[Prediction]) -> dict[str, float]:
    """The percentages of one set's predictions (`metrics.percentages`, lenient)."""
    some = list(predictions)
    single = bool(some) and some[0].source_set == SINGLE_LINE
    return percentages(total(p.counts for p in some), single_line=single, strict=False)


def score_constructs(predictions: Iterable[Prediction]) -> dict[str, tuple[int, dict[str, float]]]:
    """Of each construct: how many programs have it, and their percentages."""
    some = [(p, constructs(p.code)) for p in predictions]
    found = {}
    for name in CONSTRUCTS:
        with_it = [p for p, names in some if name in names]
        if with_it:
            found[name] = (len(with_it), score(with_it))
    return found


def percent_table(rows: dict[str, dict[str, float]]) -> Table:
    """For the screen: a row a set, under whatever condition, and a column a percentage."""
    table = Table(title="traces, percent", title_justify="left")
    table.add_column("")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for name, found in rows.items():
        cells = (f"{found[metric]:.1f}" if metric in found else "" for metric in _COLUMNS)
        table.add_row(name, *cells)
    return table


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(asdict(p)) + "\n" for p in predictions)


def read_predictions(path: Path) -> list[Prediction]:
    """The inverse."""
    fields = Prediction.__dataclass_fields__
    with path.open() as file:
        lines: list[dict[str, Any]] = [json.loads(line) for line in file]
    return [Prediction(**{k: v for k, v in line.items() if k in fields}) for line in lines]
