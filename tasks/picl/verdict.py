"""What a sweep over ways of grouping found:  python -m tasks.picl.verdict SWEEP_FOLDER

Three tables, each value a mean with its 95% interval (Student's t) over the seeds:

    retrieval      recall@9 of each way's neighbours, on tasks seen and held out, and the paired
                   difference of the trained retriever to each
    accuracy       in context, by the number of demonstrations, and the paired difference of PICL
    documents      test loss on documents

Writes picl.md and picl.png into the sweep's folder. A way is named by its `task=`.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.after_sweep import AfterSweep
from tasks.picl.plots import plot_arms
from zoo.report.runs import find_runs
from zoo.report.stats import Estimate, difference, mean_interval

OURS = "picl"
ACCURACY = "test/fewshot_accuracy@"
BySeed = Mapping[str, float]


class Sweep:
    """Metrics of a sweep by way and seed. Raises ValueError where no run of task=picl* finished."""

    def __init__(self, folder: Path):
        self.values: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        self.steps: set[float] = set()
        self.tokens: set[float] = set()
        for run in find_runs([folder]):
            way = run.choices.get("task", "")
            if run.done and way.startswith(OURS):
                self.steps.add(run.results.get("steps", 0))
                self.tokens.add(run.results.get("tokens", 0))
                for name, value in run.results.items():
                    self.values[way][name][run.seed] = value
        if not self.values:
            raise ValueError(f"{folder}: no finished run of task=picl or a baseline of it")
        self.ways = list(self.values)

    def of(self, way: str, metric: str) -> BySeed:
        """Value by seed; {} where it was not measured."""
        return self.values[way].get(metric, {}) if way in self.values else {}

    @property
    def shots(self) -> list[int]:
        """Numbers of demonstrations that were tested."""
        names = {n for way in self.values.values() for n in way if n.startswith(ACCURACY)}
        return sorted(int(name.removeprefix(ACCURACY)) for name in names)

    @property
    def seeds(self) -> list[str]:
        """Of all runs."""
        return sorted({s for way in self.values.values() for of in way.values() for s in of})


def label(way: str) -> str:
    """`picl_bm25` as a reader would call it."""
    return way.removeprefix("picl_") if way != OURS else "PICL"


def show(estimate: Estimate | None) -> str:
    """Mean ± half of the interval."""
    if estimate is None:
        return ""
    if estimate.half is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ± {estimate.half:.3f}"


def _mean(values: BySeed) -> Estimate | None:
    return mean_interval([*values.values()]) if values else None


def table(
    sweep: Sweep, title: str, first: str, columns: Mapping[str, Callable[[str], Estimate | None]]
) -> list[str]:
    """A row a way that has anything to show; nothing at all where none has."""
    head = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    rows = []
    for way in sweep.ways:
        cells = [show(column(way)) for column in columns.values()]
        if any(cells):
            rows.append(f"| {label(way)} | {' | '.join(cells)} |")
    return [f"## {title}", "", *head, *rows, ""] if rows else []


def to_markdown(sweep: Sweep) -> str:
    """The three tables."""

    def means(metric: str) -> Callable[[str], Estimate | None]:
        return lambda way: _mean(sweep.of(way, metric))

    def ahead(metric: str) -> Callable[[str], Estimate | None]:
        def column(way: str) -> Estimate | None:
            if way == OURS:
                return None
            return difference(sweep.of(OURS, metric), sweep.of(way, metric))

        return column

    held_out = "retrieval/recall_held_out@9"
    retrieval = {
        "recall@9, held out": means(held_out),
        "seen": means("retrieval/recall_seen@9"),
        "same last word": means("retrieval/same_end@9"),
        "PICL ahead, held out": ahead(held_out),
    }
    accuracy = {f"{k}": means(f"{ACCURACY}{k}") for k in sweep.shots}
    differences = {f"{k}": ahead(f"{ACCURACY}{k}") for k in sweep.shots}
    documents = {"test loss, nats a token": means("test/loss"), "PICL - it": ahead("test/loss")}
    budget = " / ".join(f"{n:,.0f}" for n in sorted(sweep.tokens))
    return "\n".join(
        [
            f"# In-context learning by pre-training: {budget} tokens, seeds {', '.join(sweep.seeds)}",
            "",
            "Means with 95% intervals over seeds; differences are paired.",
            "",
            *table(sweep, "Do neighbours share the task?", "neighbours", retrieval),
            *table(sweep, "Accuracy by the number of demonstrations", "pre-training", accuracy),
            *table(sweep, "PICL's accuracy minus that of", "pre-training", differences),
            *table(sweep, "Documents", "pre-training", documents),
        ]
    )


def judge(folder: Path) -> str:
    """Reads a sweep, writes picl.md and picl.png into it; returns the text."""
    sweep = Sweep(folder)
    text = to_markdown(sweep)
    (folder / "picl.md").write_text(text, encoding="utf-8")
    arms: dict[str, dict[int, Estimate]] = {}
    for way in sweep.ways:
        found = {k: _mean(sweep.of(way, f"{ACCURACY}{k}")) for k in sweep.shots}
        arms[label(way)] = {k: e for k, e in found.items() if e is not None}
    arms = {name: curve for name, curve in arms.items() if curve}
    if arms:
        plot_arms(arms, folder / "picl.png")
    return text


class Verdict(AfterSweep):
    """Judges a sweep when its last job has ended."""

    name = "picl"
    description = "Retrieval and in-context accuracy of a sweep over task=picl and its baselines."

    def judge(self, folder: Path) -> None:
        print(judge(folder))


main = Verdict.main


if __name__ == "__main__":
    sys.exit(main())
