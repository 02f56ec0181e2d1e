"""The comparison itself: variants × metrics, with intervals, differences and the best.

What is bold. In a column whose better direction is known, the variant with the best mean is marked
when the 95% interval of its difference to the runner-up excludes 0: paired by seed where the two
share at least two seeds, unpaired (Welch) otherwise. One seed gives no interval, and so no mark; nor
is a column marked where a value of the best is not finite, or where losses are per token and the
tokenizers differ.
"""

import math
from dataclasses import dataclass, field

from zoo.report.metrics import Metric, ordered
from zoo.report.stats import Difference, Estimate, difference, mean_interval
from zoo.report.variants import Variant, differing

LARGEST = 1e100  # beyond, squares overflow: a run that got there has diverged
BOUND_TO_DATA = ("test", "val", "train")


@dataclass
class Cell:
    """A variant's value of a metric: `estimate` over the finite values, None where there are none;
    `bad` counts the runs whose value is NaN or infinite; `against` is the difference to the
    baseline."""

    estimate: Estimate | None = None
    bad: int = 0
    against: Difference | None = None
    best: bool = False


@dataclass
class Table:
    """Rows are `variants`, columns `metrics`; `cells[row][column]`. `constants` are the yardsticks
    that are the same in every run, kept out of the columns."""

    variants: list[Variant]
    metrics: list[Metric]
    cells: list[list[Cell]]
    baseline: int
    constants: dict[str, float]
    caveats: list[str] = field(default_factory=list)

    @property
    def primary(self) -> int | None:
        """The column the summary speaks of: the first of the test split that has a direction."""
        for wanted in (lambda m: m.split == "test" and m.direction, lambda m: m.direction):
            for column, metric in enumerate(self.metrics):
                if wanted(metric):
                    return column
        return None

    def ranking(self, column: int) -> list[int]:
        """Rows from best to worst mean, those without a finite mean left out."""
        sign = -self.metrics[column].direction or 1
        rows = [(cells[column].estimate, row) for row, cells in enumerate(self.cells)]
        return [row for e, row in sorted((sign * e.mean, row) for e, row in rows if e)]


def tabulate(variants: list[Variant], baseline: str | None = None) -> Table:
    """Compare `variants`. `baseline` names one by its label or model; by default gpt2 or the first.

    Raises ValueError where `baseline` names none or several.
    """
    names = [name for v in variants for run in v.finished for name in run.results]
    metrics = ordered(names)
    values = [[_split_finite(v.values(m.name)) for m in metrics] for v in variants]
    constants = _constants(variants, metrics)
    keep = [i for i, metric in enumerate(metrics) if metric.name not in constants]
    metrics = [metrics[i] for i in keep]
    values = [[row[i] for i in keep] for row in values]
    base = _baseline(variants, baseline)
    cells = [[_cell(finite, bad) for finite, bad in row] for row in values]
    table = Table(variants, metrics, cells, base, constants, _caveats(variants))
    uneven = bool(_differing_part(variants, "tokenizer."))
    for column, metric in enumerate(metrics):
        for row, cell in enumerate(cells):
            if row != base:
                cell[column].against = difference(values[row][column][0], values[base][column][0])
        ranking = table.ranking(column)
        if len(ranking) < 2 or not metric.direction or (uneven and metric.per_token):
            continue
        best, second = ranking[:2]
        gap = difference(values[best][column][0], values[second][column][0])
        cells[best][column].best = (
            gap is not None and gap.excludes_zero and not cells[best][column].bad
        )
    return table


def _split_finite(by_seed: dict[str, float]) -> tuple[dict[str, float], int]:
    finite = {seed: value for seed, value in by_seed.items() if abs(value) < LARGEST}
    return finite, len(by_seed) - len(finite)


def _cell(finite: dict[str, float], bad: int) -> Cell:
    return Cell(mean_interval(list(finite.values())) if finite else None, bad)


def _constants(variants: list[Variant], metrics: list[Metric]) -> dict[str, float]:
    runs = [run for variant in variants for run in variant.finished]
    found = {}
    for metric in metrics:
        if metric.split in BOUND_TO_DATA or (len(runs) < 2 and metric.split != "baseline"):
            continue  # equal scores are a finding, not a constant
        seen = {run.results.get(metric.name, math.nan) for run in runs}
        if len(seen) == 1 and math.isfinite(value := seen.pop()):
            found[metric.name] = value
    return found


def _baseline(variants: list[Variant], name: str | None) -> int:
    labels = [variant.label for variant in variants]
    if name is None:
        models = [variant.choices.get("model") for variant in variants]
        return models.index("gpt2") if "gpt2" in models else 0
    if name in labels:
        return labels.index(name)
    fitting = [row for row, v in enumerate(variants) if v.choices.get("model") == name]
    if len(fitting) == 1:
        return fitting[0]
    count = "several variants" if fitting else "no variant"
    raise ValueError(f"baseline {name!r} names {count}; choose one of: {', '.join(labels)}")


def _caveats(variants: list[Variant]) -> list[str]:
    """What a careful reader must know before believing the table."""
    finished = [run for variant in variants for run in variant.finished]
    notes = []
    if _differing_part(variants, "tokenizer."):
        notes.append(
            "Tokenizers differ: losses and perplexities are per token and do not compare, so none of "
            "them is marked as best. Bits per byte do compare."
        )
    if _differing_part(variants, "data."):
        notes.append("The data settings differ: test texts may not be the same for all variants.")
    if any(0 < len({run.seed for run in v.finished}) < 3 for v in variants):
        notes.append("Some variants have fewer than three seeds: intervals are wide or absent.")
    if len({tuple(sorted(run.host.items())) for run in finished}) > 1:
        notes.append("The runs come from different machines: speeds do not compare.")
    if any(len(v.finished) > len({r.seed or r.name for r in v.finished}) for v in variants):
        notes.append("A seed that was run more than once counts once, with the mean of its runs.")
    return notes


def _differing_part(variants: list[Variant], prefix: str) -> list[str]:
    settings = [v.settings for v in variants if v.finished]
    return [key for key in differing(settings) if key.startswith(prefix)]
