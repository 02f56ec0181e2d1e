"""The self-contained page: Python lays out the tables, a small script in the page draws the figures.

Everything that comes from a run is untrusted. The template escapes it, the figures' data travel as
JSON in which `<`, `>` and `&` are escaped, and the content policy allows no request at all and no
script but the page's own, by its hash.
"""

import base64
import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from zoo.report import digits
from zoo.report.curves import Figure, learning_figures, task_figures
from zoo.report.metrics import Metric, split_condition
from zoo.report.plots import embed_plots
from zoo.report.runs import Run
from zoo.report.table import Cell, Table
from zoo.report.text import constants_text, run_count
from zoo.report.variants import MISSING, differing

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("table", "scale", "chart", "page")
ALWAYS = ("params", "tokens_per_s")  # columns to start with beside the scores
MAX_COLOURED = 16  # eight hues, solid and dashed; beyond, only a focus is coloured
FOCUS = 8


@dataclass
class Column:
    """A metric's column: its group's heading, its own, and the index of its group."""

    metric: Metric
    heading: str
    group: int
    places: int | None


def to_html(table: Table, title: str, place: str) -> str:
    """The whole page as one string that refers to nothing outside itself; `place` says where the runs
    lie."""
    variants = table.variants
    runs = [run for variant in variants for run in variant.runs]
    learning, task = learning_figures(variants), task_figures(variants)
    drawn = sorted({line.variant for figure in learning + task for line in figure.lines})
    columns, groups = _columns(table)
    script = "".join((ASSETS / f"{part}.js").read_text(encoding="utf-8") for part in SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures, left_out = embed_plots(table.variants)
    return environment.get_template("page.html").render(
        title=title,
        place=place,
        subtitle=_subtitle(table),
        summary=summary(table),
        table=table,
        columns=columns,
        groups=groups,
        differences=_differences(table, columns),
        value=lambda row, i: _value(table.cells[row][i], columns[i].places),
        run_count=run_count,
        constants=constants_text(table),
        stopped=[(run, v.label) for v in variants for run in v.runs if not run.done],
        problems=[(run.name, problem) for run in runs for problem in dict.fromkeys(run.problems)],
        learning=[figure.title for figure in learning],
        axes=_axes(learning),
        task=[figure.title for figure in task],
        many=len(variants) > MAX_COLOURED,
        settings=_settings(table),
        commands=[(v.label, [run.command for run in v.runs if run.command]) for v in variants],
        machines=_machines(runs),
        runs=[(run, v.label, digits.duration(run.duration)) for v in variants for run in v.runs],
        pictures=pictures,
        left_out=left_out,
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_safe_json(
            {
                "labels": [variant.label for variant in variants],
                "drawn": drawn,
                "coloured": _coloured(table, drawn),
                "learning": [_pack(figure) for figure in learning],
                "task": [_pack(figure) for figure in task],
            }
        ),
    )


def summary(table: Table) -> str:
    """The finding in one or two sentences, no stronger than the intervals."""
    column = table.primary
    ranking = table.ranking(column) if column is not None else []
    if column is None or not ranking:
        return "No finished run has a metric that says which variant is better."
    metric, best = table.metrics[column], ranking[0]
    cell, label = table.cells[best][column], table.variants[best].label
    assert cell.estimate is not None
    amount = f"{_plus_minus(cell.estimate)} (n = {cell.estimate.n})."
    if len(ranking) < 2:
        return f"{label} reaches {metric.name} {amount}"
    extreme = "lowest" if metric.direction < 0 else "highest"
    text = f"{label} has the {extreme} {metric.name}, {amount}"
    if cell.best:
        text += (
            f" The interval of its difference to {table.variants[ranking[1]].label}, the runner-up,"
        )
        text += " excludes 0."
    else:
        text += f" It cannot be told from {table.variants[ranking[1]].label}, the runner-up."
    base = table.variants[table.baseline].label
    if cell.against is not None and cell.against.half is not None:
        pairing = "paired by seed" if cell.against.paired else "unpaired"
        text += f" Against {base}: {_plus_minus(cell.against, sign=True)} ({pairing})."
    return text


def _plus_minus(estimate, sign: bool = False) -> str:
    mean, half = digits.mean_and_half(estimate, sign=sign)
    return f"{mean} ± {half}" if half else mean


def _subtitle(table: Table) -> str:
    runs = [run for variant in table.variants for run in variant.runs]
    parts = [f"{len(table.variants)} variant{'s' * (len(table.variants) != 1)}"]
    parts += [f"{len(runs)} run{'s' * (len(runs) != 1)}"]
    counts: defaultdict[str, int] = defaultdict(int)
    for run in runs:
        counts[run.status] += 1
    if len(counts) > 1 or "finished" not in counts:
        parts += [f"{count} {status}" for status, count in counts.items()]
    shared = [v.choices for v in table.variants if v.choices]
    for name in ("task", "data", "size"):
        values = {choices.get(name) for choices in shared}
        if len(values) == 1 and (value := values.pop()):
            parts.append(f"{name} {value}")
    ends = [run.finished for run in runs if run.finished]
    return " · ".join(parts + [max(ends)[:16].replace("T", " ")] * bool(ends))


def _columns(table: Table) -> tuple[list[Column], list[dict]]:
    """Columns, and the groups that span them: one quantity under conditions of one kind."""
    columns: list[Column] = []
    groups: list[dict] = []
    last = None
    for index, metric in enumerate(table.metrics):
        at, rest = split_condition(metric.condition)
        key = (metric.family, rest if at is not None else metric.condition)
        if key != last or at is None:
            name = f"{metric.family}@…{rest}" if at is not None else metric.name
            shown = metric.split in ("test", "val") or metric.name in ALWAYS
            groups.append(
                {"name": name, "arrow": metric.arrow, "count": 0, "first": metric.name, "on": shown}
            )
            last = key
        groups[-1]["count"] += 1
        heading = metric.condition[: len(metric.condition) - len(rest)] if at is not None else ""
        places = digits.column_decimals([row[index].estimate for row in table.cells])
        columns.append(Column(metric, heading, len(groups) - 1, places))
    for group in groups:
        if group["count"] == 1:
            group["name"] = group["first"]
    return columns, groups


def _value(cell: Cell, places: int | None) -> dict:
    if cell.estimate is None:
        return {"mean": "not finite" if cell.bad else MISSING, "half": "", "sort": "", "note": ""}
    mean, half = digits.mean_and_half(cell.estimate, places)
    note = f"{cell.bad} not finite" if cell.bad else ""
    return {"mean": mean, "half": half, "sort": repr(cell.estimate.mean), "note": note}


def _differences(table: Table, columns: list[Column]) -> list[dict]:
    """The rows of the second table, the baseline's own left out."""
    rows = []
    for index, (variant, cells) in enumerate(zip(table.variants, table.cells)):
        if index == table.baseline or not any(cell.against for cell in cells):
            continue
        row = []
        for cell, column in zip(cells, columns):
            gap = cell.against
            if gap is None:
                row.append({"mean": MISSING, "half": "", "sort": "", "kind": "none", "how": ""})
                continue
            mean, half = digits.mean_and_half(gap, sign=True)
            kind = "none"
            if gap.excludes_zero and column.metric.direction:
                kind = "better" if gap.mean * column.metric.direction > 0 else "worse"
            elif gap.excludes_zero:
                kind = "clear"
            how = f"{'paired by seed' if gap.paired else 'unpaired'}, n = {gap.n}"
            row.append(
                {"mean": mean, "half": half, "sort": repr(gap.mean), "kind": kind, "how": how}
            )
        rows.append({"index": index, "label": variant.label, "cells": row})
    return rows


def _axes(figures: list[Figure]) -> list[str]:
    found = {axis for figure in figures for line in figure.lines for axis in line.x}
    return [axis for axis in ("step", "tokens", "seconds") if axis in found]


def _settings(table: Table) -> dict:
    """What differs: settings down the side while the variants fit across, else the other way."""
    known = [v for v in table.variants if any(run.config for run in v.runs)]
    mappings = [variant.choices | variant.settings for variant in known]
    keys = differing(mappings)
    labels = [variant.label for variant in known]
    rows = [[mapping.get(key, MISSING) for mapping in mappings] for key in keys]
    if len(labels) <= 8:
        return {"corner": "Setting", "heads": labels, "rows": list(zip(keys, rows))}
    return {"corner": "Variant", "heads": keys, "rows": list(zip(labels, zip(*rows)))}


def _machines(runs: list[Run]) -> list[dict]:
    """Hardware and versions, each different combination once with the number of its runs."""
    groups: dict[tuple, int] = defaultdict(int)
    for run in runs:
        if run.host or run.versions:
            groups[tuple(run.host.items()), tuple(run.versions.items())] += 1
    return [
        {"host": dict(host), "versions": dict(versions), "count": count}
        for (host, versions), count in groups.items()
    ]


def _coloured(table: Table, drawn: list[int]) -> list[int]:
    """The variants that start in colour, in the order of the palette, out of those with a line."""
    if len(table.variants) <= MAX_COLOURED:
        return drawn
    ranking = table.ranking(table.primary) if table.primary is not None else []
    rows = dict.fromkeys([table.baseline, *ranking, *drawn])
    return [row for row in rows if row in drawn][:FOCUS]


def _pack(figure: Figure) -> dict:
    return {
        "title": figure.title,
        "xlabel": figure.xlabel,
        "ylabel": figure.ylabel,
        "family": figure.family,
        "xscale": figure.xscale,
        "yscale": figure.yscale,
        "lines": [
            {
                "v": line.variant,
                "n": line.n,
                "whole": line.whole,
                "x": {axis: _short(x) for axis, x in line.x.items()},
                "y": _short(line.y),
                "h": _short(line.half),
            }
            for line in figure.lines
        ],
    }


def _short(values: list[float]) -> list[float | int | None]:
    """Six digits are more than a screen can show; null for what JSON cannot say."""
    rounded = [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in rounded]


def _safe_json(data) -> str:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
