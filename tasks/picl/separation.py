"""Can a model tell groups that share a task from groups that do not, as the filter asks of it?

    python -m tasks.picl.separation RUN_FOLDER...

For runs on a corpus whose tasks are known: scores groups of same-task paragraphs and groups of any
paragraphs by `informativeness` under the run's model, and prints the share of (good, bad) pairs that are
in the right order (AUC), and of each kind the share that the published delta = 0 would keep.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.errors import UserError
from tasks.picl.filter import score
from tasks.picl.groups import Retrieved
from tasks.picl.neighbours import Finder, Oracle, Random
from zoo.load import build, load_run

_AT_ONCE = 64


def area(good: np.ndarray, bad: np.ndarray) -> float:
    """Share of pairs in which the good one scores higher, ties half."""
    difference = good[:, None] - bad[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def scores_of(folder: str, *, groups: int, checkpoint: str) -> dict[str, np.ndarray]:
    """Scores of same-task and of random groups around the same queries."""
    run = load_run(folder, checkpoint=checkpoint)
    config = run.config
    data = build(config["data"], key="data")
    data.prepare()
    found: dict[str, np.ndarray] = {}
    finders: dict[str, Finder] = {"same": Oracle(), "random": Random(seed=config["seed"])}
    for name, finder in finders.items():
        made = Retrieved(finder=finder)
        made.prepare(data, context_length=config["model"]["context_length"], seed=config["seed"])
        known = made.queries[made.paragraphs.tasks[made.queries] >= 0]
        chosen = known[np.linspace(0, len(known) - 1, min(groups, len(known))).astype(int)]
        parts = [
            score(run.model, made, chosen[i : i + _AT_ONCE])
            for i in range(0, len(chosen), _AT_ONCE)
        ]
        found[name] = np.concatenate(parts)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.picl.separation", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs")
    parser.add_argument("--groups", type=int, default=400, help="of each kind")
    parser.add_argument("--checkpoint", default="best")
    options = parser.parse_args(arguments)
    table = Table(title="informativeness of groups", title_justify="left")
    for column in ("scorer", "AUC", "same task kept", "random kept"):
        table.add_column(column, justify="left" if column == "scorer" else "right")
    try:
        for folder in options.runs:
            found = scores_of(folder, groups=options.groups, checkpoint=options.checkpoint)
            same, other = found["same"], found["random"]
            kept = [f"{(x > 0).mean():.3f}" for x in (same, other)]
            name = "/".join(Path(folder).parts[-2:])
            table.add_row(name, f"{area(same, other):.3f}", *kept)
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
