"""What a sweep of `experiment=code_execution` found: `python -m tasks.code_execution.findings SWEEP`.

Writes code_execution.md and code_execution.png into the sweep's folder:

    every percentage of every variant on every test set, mean and 95% interval over the seeds
    what the curriculum changes: paired over seeds, and over test programs by bootstrap
    the learning curves, and where the traces fail, by construct
    both downstream uses of the runs with a curriculum

The variants are named by their data: `curriculum`, `without curriculum`, `only SET`; and the curriculum's
model as it was when stage K ended is `after stage K`.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from tasks.after_sweep import AfterSweep
from tasks.code_execution.constructs import CONSTRUCTS
from tasks.code_execution.formats import SETS
from tasks.code_execution.picture import draw
from tasks.code_execution.scores import SINGLE_LINE, read_predictions
from tasks.run_folder import read_json, say
from zoo.report.runs import Run, find_runs
from zoo.report.stats import Estimate, difference, mean_interval

METRICS = {
    "output_accuracy": "output",
    "trace_accuracy": "trace",
    "line_precision": "line P",
    "line_recall": "line R",
    "line_f1": "line F1",
    "identifier_precision": "name P",
    "identifier_recall": "name R",
    "identifier_f1": "name F1",
}
TITLES = {
    "singleline": "SingleLine-like",
    "tutorial": "Tutorial-like",
    "codenet": "CodeNetMut-like",
}
CURRICULUM, MIXED = "curriculum", "without curriculum"
_BOOTSTRAPS = 2000


def variant(run: Run) -> str:
    """What a run was trained on, in words."""
    choice = run.choices.get("data", "")
    if choice == "traces":
        return CURRICULUM
    if choice == "traces_mixed":
        return MIXED
    if choice == "traces_only":
        names = [
            name for name in SETS if f"'{name}'" in str(run.config.get("data.curriculum.stages"))
        ]
        return f"only {', '.join(names) or 'one set'}"
    return choice or run.name


class Sweep:
    """The finished runs of a sweep, by variant and seed."""

    def __init__(self, folder: Path):
        self.runs: dict[str, dict[str, Run]] = {}
        for run in find_runs([folder]):
            if run.done and any(name.startswith("test/trace_accuracy@") for name in run.results):
                self.runs.setdefault(variant(run), {})[run.seed] = run
        if not self.runs:
            raise ValueError(f"{folder}: no finished run of task=code_execution")

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(title, variant, suffix of the metric) of every row of the tables."""
        rows = []
        for name, by_seed in self.runs.items():
            run = next(iter(by_seed.values()))
            stages = sorted({m.split("+")[1] for m in run.results if "+after-stage-" in m})
            rows += [(f"after {s[6:].replace('-', ' ')}", name, f"+{s}") for s in stages]
            rows.append((name, name, ""))
        return rows

    def values(self, name: str, metric: str) -> dict[str, float]:
        """Value by seed."""
        runs = self.runs.get(name, {})
        return {seed: run.results[metric] for seed, run in runs.items() if metric in run.results}

    def estimate(self, name: str, metric: str) -> Estimate | None:
        """Mean and interval over the seeds."""
        values = [*self.values(name, metric).values()]
        return mean_interval(values) if values else None


def bootstrap(sweep: Sweep, other: str, source_set: str, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the curriculum's trace accuracy less another's, over programs and seeds paired.

    Programs are drawn by their source: mutants of one source stand or fall together.
    """
    differences: dict[str, list[float]] = {}
    for number in sweep.runs[CURRICULUM].keys() & sweep.runs[other].keys():
        pair = [
            {p.id: p for p in read_predictions(run.folder / "predictions" / f"{source_set}.jsonl")}
            for run in (sweep.runs[CURRICULUM][number], sweep.runs[other][number])
        ]
        for id in pair[0].keys() & pair[1].keys():
            gain = pair[0][id].counts.exact - pair[1][id].counts.exact
            differences.setdefault(pair[0][id].source_id or id, []).append(gain)
    sums = np.array([[sum(d), len(d)] for _, d in sorted(differences.items())], dtype=float)
    draw = np.random.default_rng(seed).integers(0, len(sums), (_BOOTSTRAPS, len(sums)))
    drawn = sums[draw].sum(1)
    low, high = np.percentile(100 * drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


# ---- the page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    rule = "|---" + "|---:" * (len(head) - 1) + "|"
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows), ""]


def shown(estimate: Estimate | None, digits: int = 1) -> str:
    """`12.3 ± 4.5`."""
    if estimate is None:
        return ""
    half = "" if estimate.half is None else f" ± {estimate.half:.{digits}f}"
    return f"{estimate.mean:.{digits}f}{half}"


def percentages(sweep: Sweep) -> list[str]:
    """Every percentage of every row, set by set."""
    lines = ["## Percentages", ""]
    for name in SETS:
        metrics = [m for m in METRICS if name != SINGLE_LINE or m[0] in "ti"]
        rows = [
            [
                title,
                *(shown(sweep.estimate(of, f"test/{m}@{name}{suffix}")) for m in metrics),
                shown(sweep.estimate(of, f"test/loss@{name}{suffix}"), 2),
            ]
            for title, of, suffix in sweep.rows
        ]
        if any(any(row[1:]) for row in rows):
            head = ["", *(METRICS[m] for m in metrics), "loss"]
            lines += [f"### {TITLES[name]}", "", *table(head, rows)]
    return lines


def effect(sweep: Sweep) -> list[str]:
    """The curriculum less each other variant."""
    if CURRICULUM not in sweep.runs:
        return []
    lines = [
        "## What the curriculum changes",
        "",
        "Percentage points, curriculum less the other.",
        "",
    ]
    rows = []
    for other in (name for name in sweep.runs if name != CURRICULUM):
        for name in (n for n in SETS if sweep.values(CURRICULUM, f"test/trace_accuracy@{n}")):
            row = [f"{other}, {TITLES[name]}"]
            for metric in ("output_accuracy", "trace_accuracy", "identifier_f1"):
                key = f"test/{metric}@{name}"
                row.append(
                    shown(difference(sweep.values(CURRICULUM, key), sweep.values(other, key)))
                )
            low, high = bootstrap(sweep, other, name)
            key = f"test/loss@{name}"
            loss = difference(sweep.values(CURRICULUM, key), sweep.values(other, key))
            rows.append([*row, f"{low:+.1f} to {high:+.1f}", shown(loss, 2)])
    head = ["against", "output", "trace", "name F1", "trace, over programs", "loss (nats)"]
    return [*lines, *table(head, rows)]


def by_construct(sweep: Sweep) -> list[str]:
    """Trace accuracy of programs that have each construct, at the curriculum's end."""
    name = CURRICULUM if CURRICULUM in sweep.runs else next(iter(sweep.runs))
    rows = []
    for construct in CONSTRUCTS:
        found = [shown(sweep.estimate(name, f"test/trace_accuracy@{s}+{construct}")) for s in SETS]
        if any(found):
            rows.append([construct, *found])
    head = ["programs with", *(TITLES[s] for s in SETS)]
    return [f"## Where traces fail: {name}", "", "Trace accuracy.", "", *table(head, rows)]


def downstream(sweep: Sweep) -> list[str]:
    """Both uses, of the runs that have them measured."""
    found = [
        content
        for run in sweep.runs.get(CURRICULUM, {}).values()
        if (content := read_json(run.folder / "downstream.json"))
    ]
    if not found:
        return []
    one = found[0]
    titles = {
        "search": f"Code-to-code search, mean average precision: {one['search_items']} programs, "
        f"{one['search_problems']} problems",
        "rerank": f"Choosing a right program, pass@1: {one['rerank_problems']} problems, "
        f"{one['rerank_candidates']} candidates",
    }
    lines = ["## Downstream, zero-shot", ""]
    for use, title in titles.items():
        rows = [[key, shown(mean_interval([f[use][key] for f in found]))] for key in one[use]]
        lines += [f"### {title}", "", *table(["", "percent"], rows)]
    return lines


def page(sweep: Sweep) -> str:
    """code_execution.md."""
    seeds = min(len(runs) for runs in sweep.runs.values())
    run = next(iter(next(iter(sweep.runs.values())).values()))
    host = ", ".join(f"{v}" for v in run.host.values())
    versions = ", ".join(f"{k} {v}" for k, v in run.versions.items())
    lines = [
        f"# Predicted execution: {seeds} seeds",
        "",
        f"{run.results.get('params', 0):,.0f} parameters, {run.results.get('tokens', 0):,.0f} tokens a "
        f"run. Mean and 95% interval over the seeds. {host}; {versions}.",
        "",
        *percentages(sweep),
        *effect(sweep),
        *by_construct(sweep),
        *downstream(sweep),
    ]
    return "\n".join(lines)


def judge(folder: Path) -> Path:
    """Writes code_execution.md and code_execution.png; ValueError where there is nothing to read."""
    sweep = Sweep(folder)
    written = folder / "code_execution.md"
    written.write_text(page(sweep))
    curves = {
        name: [run.curves for run in by_seed.values()] for name, by_seed in sweep.runs.items()
    }
    draw(curves, folder / "code_execution.png")
    return written


def measure_downstream(folder: Path) -> None:
    """Downstream uses of each run with a curriculum that lacks them."""
    from tasks.code_execution.downstream import measure

    for run in Sweep(folder).runs.get(CURRICULUM, {}).values():
        if not (run.folder / "downstream.json").is_file():
            measure(run.folder)


class Findings(AfterSweep):
    """Measures the downstream uses and writes the page when the last job has ended."""

    name = "findings"
    description = "What a sweep of task=code_execution found."

    def judge(self, folder: Path) -> None:
        print(f"findings: {judge(folder)}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        steps: list[Callable[[Path], Any]] = [measure_downstream, judge]
        for step in steps:
            try:
                written = step(folder)
            except Exception as error:  # the runs are done: what can be said of them is said
                say(f"findings: {' '.join(str(error).split())}")
            else:
                if written is not None:
                    say(f"findings: {written}")


main = Findings.main


if __name__ == "__main__":
    sys.exit(main())
