"""From run folders to the three files of a comparison."""

import os
from pathlib import Path

from zoo.report.page import to_html
from zoo.report.runs import find_runs
from zoo.report.table import Table, tabulate
from zoo.report.text import to_csv, to_markdown
from zoo.report.variants import group


def compare(
    folders: list[Path], *, output: Path | None = None, baseline: str | None = None
) -> dict[str, Path]:
    """Compare every run in `folders` (sweeps or single runs).

    Writes comparison.csv, comparison.md and comparison.html to `output` (default: the first folder),
    each whole or not at all, and returns their paths under "csv", "md" and "html". `baseline` is a
    variant's label or model; by default gpt2 where it is one of them, else the first variant.

    Raises ValueError, in one line, for a folder without runs or a baseline that is no variant.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise ValueError("compare needs at least one folder")
    table = tabulate(group(find_runs(folders)), baseline)
    title, place = _title(table, folders)
    target = Path(output) if output is not None else folders[0]
    target.mkdir(parents=True, exist_ok=True)
    texts = {
        # The page first: making its figures is what finds the last problems of the runs.
        "html": to_html(table, title, place),
        "csv": to_csv(table),
        "md": to_markdown(table, title),
    }
    return {
        kind: _write(target / f"comparison.{kind}", texts[kind]) for kind in ("csv", "md", "html")
    }


def _title(table: Table, folders: list[Path]) -> tuple[str, str]:
    """A heading, and where the runs lie. Folders that are named by the time alone do not make a
    heading: the experiment does, or the task and its data."""
    names = list(dict.fromkeys(folder.resolve().name for folder in folders))
    place = ", ".join("/".join(folder.resolve().parts[-3:]) for folder in folders)
    choices = [variant.choices for variant in table.variants if variant.choices]
    shared = {
        key: value
        for key, value in (choices or [{}])[0].items()
        if all(other.get(key) == value for other in choices)
    }
    if any(letter.isalpha() for name in names for letter in name):
        return " and ".join(names), place
    if "experiment" in shared:
        return shared["experiment"], place
    if "task" in shared:
        return " on ".join(shared[key] for key in ("task", "data") if key in shared), place
    return " and ".join(names), place


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
