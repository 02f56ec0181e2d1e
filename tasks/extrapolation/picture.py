"""The shape of the LeX paper's Table 2 as a picture: perplexity against length, a line a scheme.

Left, full causal attention; right, blockwise causal attention beyond the training length. Both axes
are logarithmic, the bands are 95% intervals over seeds, and lines are labelled where they end.
"""

import math
from pathlib import Path
from typing import Any

from tasks.extrapolation.plots import COLOURS, length_axis, pyplot, value_axis
from tasks.extrapolation.sweep import Scheme, Sweep
from zoo.report.stats import mean_interval

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK, BROWN, GREY, PURPLE = COLOURS
# The paper's subjects are drawn strongly, the schemes that came after it thinly; a scheme that
# is not named here takes the next free colour.
STYLES: dict[str, tuple[str, str, float]] = {
    "xpos": ("xPos", BLUE, 2.6),
    "rope": ("RoPE", BLACK, 2.0),
    "alibi": ("ALiBi", GREEN, 2.0),
    "learned": ("learned", ORANGE, 2.0),
    "sinusoidal": ("sinusoidal", YELLOW, 2.0),
    "nope": ("no positions", GREY, 1.3),
    "t5": ("T5", PINK, 1.3),
    "fire": ("FIRE", BROWN, 1.3),
    "kerple": ("KERPLE", SKY, 1.3),
    "sandwich": ("Sandwich", PURPLE, 1.3),
}
PANELS = (("", "full causal attention"), ("+bca", "blockwise causal attention"))


def plot_sweep(sweep: Sweep, path: Path) -> Path:
    """Draws the picture of a sweep to `path` (PNG)."""
    plt = pyplot()
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure, panels = plt.subplots(1, 2, figsize=(10.4, 5.0), sharey=True)
        figure.subplots_adjust(left=0.065, right=0.895, top=0.84, bottom=0.115, wspace=0.3)
        drawn = [
            _panel(axes, sweep, suffix, title)
            for axes, (suffix, title) in zip(panels, PANELS, strict=True)
        ]
        values = [v for lines in drawn for _, _, ys in lines for v in ys]
        low, high = min(values), max(values)
        pad = (high / low) ** 0.05
        value_axis(panels[0], low / pad, high * pad)
        panels[1].tick_params(labelleft=True)
        panels[0].set_ylabel("perplexity")
        for axes, lines in zip(panels, drawn, strict=True):
            _label(axes, lines)
        seeds = (
            f"mean of {sweep.seeds} seeds, bands: 95% intervals" if sweep.seeds > 1 else "one seed"
        )
        figure.text(
            0.065, 0.945, "Reading further than was trained", fontsize=14, fontweight="bold"
        )
        figure.text(
            0.065,
            0.9,
            f"the same held-out text in segments of each length, models trained at {sweep.N}; {seeds}",
            color="0.35",
        )
        figure.savefig(path, dpi=200)
        plt.close(figure)
    return path


Drawn = tuple[str, str, list[float]]  # label, colour, the means from left to right


def _panel(axes: Any, sweep: Sweep, suffix: str, title: str) -> list[Drawn]:
    drawn: list[Drawn] = []
    free = [c for c in COLOURS if c not in {style[1] for style in STYLES.values()}] or [GREY]
    for scheme in sweep.schemes.values():
        label, colour, width = STYLES.get(scheme.name, (scheme.name, free[0], 1.3))
        points = _points(sweep, scheme, suffix)
        if not points:
            continue
        x, mean, low, high = map(list, zip(*points))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
        axes.plot(x, mean, "o-", color=colour, lw=width, ms=2 + width, mec="white", mew=0.5)
        drawn.append((label, colour, mean))
    length_axis(axes, sweep.lengths, sweep.N)
    axes.axvspan(sweep.N, sweep.lengths[-1] * 1.12, color="0.965", lw=0, zorder=-1)
    axes.annotate(
        "longer than trained",
        xy=(sweep.N, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5, -11),
        textcoords="offset points",
        fontsize=8,
        color="0.5",
    )
    axes.set_xlim(sweep.lengths[0] / 1.12, sweep.lengths[-1] * 1.12)
    axes.set_xlabel("length of the segment (tokens)")
    axes.set_title(title, fontsize=10.5, loc="left", fontweight="bold", color="0.2")
    axes.grid(axis="y", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    return drawn


def _points(sweep: Sweep, scheme: Scheme, suffix: str) -> list[tuple[float, ...]]:
    """(length, mean, low, high) over the seeds, in logs; only lengths that were measured."""
    points = []
    for length in sweep.lengths:
        values = [*scheme.values(f"test/ppl@{length}{suffix}").values()]
        if values:
            of = mean_interval([math.log(value) for value in values])
            half = of.half or 0.0
            points.append((length, *(math.exp(of.mean + d) for d in (0.0, -half, half))))
    return points


def _label(axes: Any, lines: list[Drawn]) -> None:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    figure = axes.figure
    height = axes.get_window_extent().height / figure.dpi * 72  # points
    low, high = (math.log(v) for v in axes.get_ylim())
    gap = (high - low) * 11.5 / height
    ends = sorted((math.log(ys[-1]), label, colour) for label, colour, ys in lines)
    places = _apart([end for end, _, _ in ends], gap, low, high)
    right = axes.get_xlim()[1]
    for (end, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            xy=(right / 1.12, math.exp(end)),
            xytext=(right * 1.1, math.exp(place)),
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkB": 3},
        )


def _apart(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places to ascending `values` that are `gap` apart: neighbours that would overlap
    share their mean (pool adjacent violators), within [low, high]."""
    groups: list[tuple[float, int]] = []  # sum of (value - index * gap), members
    for index, value in enumerate(values):
        groups.append((value - index * gap, 1))
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            (b, n), (a, m) = groups.pop(), groups.pop()
            groups.append((a + b, m + n))
    flat = [total / count for total, count in groups for _ in range(count)]
    top = high - (len(values) - 1) * gap
    return [min(max(base, low), max(top, low)) + i * gap for i, base in enumerate(flat)]
