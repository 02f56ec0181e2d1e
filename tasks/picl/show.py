"""Paragraphs with their neighbours, and the tasks that they share.

    python -m tasks.picl.show RUN_FOLDER
    python -m tasks.picl.show experiment=picl task=picl_bm25 seed=1 --queries 3 --near 5

What is missing is built. A neighbour of the query's task is marked with =, where tasks are known.
"""

import argparse
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.errors import UserError
from tasks.picl.stages import open_groups, settings


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.picl.show", description=__doc__)
    parser.add_argument("source", nargs="+", help="folder of a run, or overrides of train.py")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--near", type=int, default=6, help="neighbours of each")
    parser.add_argument("--seed", type=int, default=0, help="which queries")
    options = parser.parse_args(arguments)
    try:
        config = settings(options.source)
        data, groups = open_groups(config)
        groups.filter = None
        groups.prepare(data, context_length=config["model"]["context_length"], seed=config["seed"])
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    draw = np.random.default_rng(options.seed)
    chosen = draw.choice(len(groups.queries), min(options.queries, len(groups.queries)), False)
    console = Console()
    paragraphs = groups.paragraphs
    for query in groups.queries[np.sort(chosen)].tolist():
        task = int(paragraphs.tasks[query])
        found = groups.found.of(query)[: options.near]
        same = int((paragraphs.tasks[found] == task).sum()) if task >= 0 else None
        table = Table(title_justify="left", show_lines=False)
        table.title = _line(paragraphs.text(query))
        if same is not None:
            table.title += f"\ntask {task}, shared by {same} of {len(found)}"
        for column in ("", "score", "task", "neighbour"):
            table.add_column(column, justify="right" if column in ("score", "task") else "left")
        for i, score in zip(found.tolist(), groups.found.scores(query).tolist()):
            own = int(paragraphs.tasks[i])
            mark = "=" if own == task and task >= 0 else ""
            shown = str(own) if own >= 0 else "?"
            table.add_row(mark, f"{score:.3f}", shown, _line(paragraphs.text(i)))
        console.print(table, markup=False)
    for key, value in groups.report().items():
        console.print(f"{key}: {value:.4g}", markup=False)
    return 0


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."


if __name__ == "__main__":
    sys.exit(main())
