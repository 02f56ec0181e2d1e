"""Lines for the figures: each variant's mean over seeds with its 95% interval, small enough to embed.

A learning curve lives on the logged steps; tokens and seconds at a step are means over the seeds, so
one line serves all three axes. Seeds that logged other steps are interpolated linearly over the range
all of them reached. Long logs are averaged in equal bins of rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.report.metrics import ordered, parse, split_condition
from zoo.report.runs import AXES, Curve
from zoo.report.stats import mean_interval
from zoo.report.variants import Variant

MAX_METRICS = 12
SERIES_POINTS = 512
SCALES = ("linear", "log")


@dataclass
class Line:
    """One variant in one figure: `x` has an array for each axis the figure can show; `half` is NaN
    where fewer than two seeds have a value. `whole` is False for a variant no run of which finished."""

    variant: int
    x: dict[str, list[float]]
    y: list[float]
    half: list[float]
    n: int
    whole: bool


@dataclass
class Figure:
    """Lines over common axes; figures of one `family` share their y axis."""

    title: str
    xlabel: str
    ylabel: str
    xscale: str
    yscale: str
    lines: list[Line]
    family: str = ""


def learning_figures(variants: list[Variant]) -> list[Figure]:
    """A figure for each metric in the runs' metrics.csv, losses first."""
    names = [name for v in variants for run in v.one_per_seed() for name in run.curves]
    metrics = sorted(ordered(names), key=lambda m: (m.quantity != "loss", m.split != "val"))
    points = max(60, min(200, 4000 // max(1, len(variants))))
    figures = []
    for metric in metrics[:MAX_METRICS]:
        lines = []
        for index, variant in enumerate(variants):
            curves = [
                r.curves[metric.name] for r in variant.one_per_seed() if metric.name in r.curves
            ]
            if curves:
                lines.append(_learning_line(index, curves, points, bool(variant.finished)))
        figures.append(Figure(metric.name, "", metric.name, "linear", "linear", lines))
    return figures


def task_figures(variants: list[Variant]) -> list[Figure]:
    """The tasks' own curves (series.json), then one for each metric measured under three or more
    numbered conditions (`test/ppl@256 … @4096`) unless a series already shows the same points."""
    names = dict.fromkeys(name for v in variants for run in v.one_per_seed() for name in run.series)
    figures = [_series_figure(name, variants) for name in names]
    figures = [figure for figure in figures if figure.lines]
    shown = [_points(figure.lines[0]) for figure in figures]
    derived = [f for f in _condition_figures(variants) if _points(f.lines[0]) not in shown]
    return figures + derived


def _learning_line(index: int, curves: list[Curve], points: int, whole: bool) -> Line:
    low = max(curve.step[0] for curve in curves)
    high = min(curve.step[-1] for curve in curves)
    shortest = min(curves, key=lambda curve: len(curve.step))
    grid = np.array([step for step in shortest.step if low <= step <= high] or shortest.step)
    binned = {
        axis: [_bins(_on_grid(grid, c.step, getattr(c, axis)), points) for c in curves]
        for axis in (*AXES, "value")
    }
    axes = {axis: _column_means(binned[axis]) for axis in AXES}
    y, half = _mean_and_half(binned["value"])
    kept = {axis: x for axis, x in axes.items() if any(map(math.isfinite, x))}
    return Line(index, kept, y, half, len(curves), whole)


def _on_grid(grid: np.ndarray, steps: list[float], values: list[float]) -> np.ndarray:
    if len(steps) == len(grid) and np.array_equal(grid, steps):
        return np.asarray(values)  # as logged: interpolation would smear a NaN to its neighbour
    return np.interp(grid, steps, values)


def _bins(values: np.ndarray, count: int) -> list[float]:
    """Means of at most `count` runs of consecutive values; NaN only where a bin has no finite one."""
    if len(values) <= count:
        return values.tolist()
    width = -(-len(values) // count)
    return [_finite_mean(values[i : i + width]) for i in range(0, len(values), width)]


def _finite_mean(values: Sequence[float] | np.ndarray) -> float:
    finite = [float(v) for v in values if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _column_means(rows: list[list[float]]) -> list[float]:
    return [_finite_mean(column) for column in zip(*rows)]


def _mean_and_half(rows: list[list[float]]) -> tuple[list[float], list[float]]:
    """Over seeds, point by point; a point that one seed lacks has no interval and no mean, so that a
    line never steps because a seed came or went."""
    means, halves = [], []
    for column in zip(*rows):
        whole = all(abs(value) < 1e100 for value in column)
        estimate = mean_interval(column) if whole else None
        means.append(estimate.mean if estimate else math.nan)
        halves.append(math.nan if estimate is None or estimate.half is None else estimate.half)
    return means, halves


def _series_figure(name: str, variants: list[Variant]) -> Figure:
    lines: list = []
    first: dict = {}
    for index, variant in enumerate(variants):
        samples = []
        for run in variant.one_per_seed():
            series = run.series.get(name)
            points = _read_points(series) if series is not None else None
            if series is not None and points is None:
                run.problems.append(
                    f"series.json: {name!r} needs equally long lists of numbers x, y"
                )
            elif series is not None and points:
                first = first or series
                samples.append(points)
        if samples:
            lines.append(_point_line(index, samples, bool(variant.finished)))
    xscale, yscale = (
        scale if (scale := first.get(axis)) in SCALES else "linear" for axis in ("xscale", "yscale")
    )
    return Figure(
        name,
        str(first.get("xlabel") or "x"),
        str(first.get("ylabel") or name),
        xscale,
        yscale,
        lines,
    )


def _read_points(series: dict) -> dict[float, float] | None:
    x, y = series.get("x"), series.get("y")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        return None
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in x):
        return None
    if not all(v is None or isinstance(v, int | float) for v in y):
        return None
    return {float(a): math.nan if b is None else float(b) for a, b in zip(x, y)}


def _point_line(index: int, samples: list[dict[float, float]], whole: bool) -> Line:
    shared = [x for x in samples[0] if all(x in sample for sample in samples)]
    if not shared:  # nothing to average over: the first seed alone
        samples, shared = samples[:1], list(samples[0])
    shared.sort()
    if len(shared) > SERIES_POINTS:
        logs = np.geomspace(1, len(shared), SERIES_POINTS // 2).astype(int) - 1
        even = np.linspace(0, len(shared) - 1, SERIES_POINTS // 2).astype(int)
        shared = [shared[i] for i in sorted({*logs.tolist(), *even.tolist()})]
    y, half = _mean_and_half([[sample[x] for x in shared] for sample in samples])
    return Line(index, {"x": shared}, y, half, len(samples), whole)


def _condition_figures(variants: list[Variant]) -> list[Figure]:
    names = dict.fromkeys(name for v in variants for run in v.finished for name in run.results)
    groups: dict[tuple[str, str], dict[float, str]] = {}
    for name in names:
        metric = parse(name)
        at, rest = split_condition(metric.condition)
        if at is not None:
            groups.setdefault((metric.family, rest), {})[at] = name
    figures = []
    for (family, rest), by_condition in groups.items():
        if len(by_condition) < 3:
            continue
        lines = []
        for index, variant in enumerate(variants):
            samples = [
                {at: run.results[n] for at, n in by_condition.items() if n in run.results}
                for run in variant.one_per_seed()
            ]
            samples = [sample for sample in samples if sample]
            if samples:
                lines.append(_point_line(index, samples, bool(variant.finished)))
        steep = parse(family).quantity in ("ppl", "perplexity")
        title = f"{family} by condition (@…{rest})"
        scale = "log" if steep else "linear"
        figures.append(Figure(title, "condition", family, "log", scale, lines, family))
    return figures


def _points(line: Line) -> tuple:
    return tuple((x, float(f"{y:.6g}")) for x, y in zip(line.x["x"], line.y) if math.isfinite(y))
