"""The figures of a study, as PNG bytes, drawn from numbers alone."""

import io
from typing import Any

import numpy as np

from tasks.extrapolation.plots import COLOURS, pyplot


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    pyplot().close(figure)
    return stream.getvalue()


def heat_map(
    matrix: np.ndarray, labels: list[str], *, title: str, diverging: bool, digits: int = 1
) -> bytes:
    """A period x period matrix; the oldest training period at the bottom, as the paper draws it."""
    size = min(11.0, 2.6 + 0.55 * len(labels))
    figure, axes = pyplot().subplots(figsize=(size + 0.9, size))
    _draw_map(axes, matrix, labels, title, diverging, digits)
    figure.tight_layout()
    return _png(figure)


def _draw_map(
    axes: Any, matrix: np.ndarray, labels: list[str], title: str, diverging: bool, digits: int
) -> None:
    n = len(labels)
    finite = matrix[np.isfinite(matrix)]
    limit = np.abs(finite).max() if len(finite) else 1.0
    low, high = (-limit, limit) if diverging else (finite.min(), finite.max())
    image = axes.imshow(
        matrix, origin="lower", cmap="RdBu_r" if diverging else "viridis", vmin=low, vmax=high
    )
    step = -(-n // 24)
    longest = max(map(len, labels))
    axes.set_xticks(range(0, n, step), labels[::step], rotation=90 if n * longest > 40 else 0)
    axes.set_yticks(range(0, n, step), labels[::step])
    axes.set_xlabel("evaluated on")
    axes.set_ylabel("trained on")
    axes.set_title(title, fontsize=11)
    if n <= 14:
        for i in range(n):
            for j in range(n):
                if np.isfinite(matrix[i, j]):
                    level = (matrix[i, j] - low) / (high - low or 1)
                    dark = level < (0.15 if diverging else 0.4) or (diverging and level > 0.85)
                    text = f"{round(matrix[i, j], digits) + 0.0:.{digits}f}"
                    colour = "white" if dark else "black"
                    axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    axes.figure.colorbar(image, ax=axes, fraction=0.046)


def curves(
    x: np.ndarray,
    lines: dict[str, np.ndarray],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marks: dict[str, float] | None = None,
    ticks: list[str] | None = None,
) -> bytes:
    """Lines over x, coloured from first to last; `marks` puts a dot on each at its own x; `ticks` names
    the values of x."""
    figure, axes = pyplot().subplots(figsize=(7.2, 4.4))
    _draw_lines(axes, x, lines, marks)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if ticks is not None:
        axes.set_xticks(x, ticks, rotation=90 if len(ticks) > 12 else 0)
    axes.set_title(title, fontsize=11)
    figure.tight_layout()
    return _png(figure)


def _draw_lines(
    axes: Any, x: np.ndarray, lines: dict[str, np.ndarray], marks: dict[str, float] | None
) -> None:
    shades = pyplot().get_cmap("viridis")(np.linspace(0, 0.92, max(2, len(lines))))
    for shade, (name, values) in zip(shades, lines.items()):
        axes.plot(x, values, color=shade, label=name)
        if marks and name in marks:
            axes.plot(marks[name], np.interp(marks[name], x, values), "o", color=shade)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, ncols=2)


def overview(
    misalignment: np.ndarray,
    cosines: np.ndarray,
    labels: list[str],
    alphas: np.ndarray,
    perplexity: dict[str, np.ndarray],
    best: dict[str, float],
) -> bytes:
    """The three pictures of the idea side by side: the two maps, and the interpolation."""
    figure, (one, two, three) = pyplot().subplots(1, 3, figsize=(14.5, 4.6))
    _draw_map(one, misalignment, labels, "perplexity, % from the column's mean", True, 0)
    _draw_map(two, cosines, labels, "cosine of the time vectors", False, 2)
    _draw_lines(three, alphas, perplexity, best)
    three.set(xlabel=f"weight of {labels[0]} against {labels[-1]}", ylabel="perplexity")
    three.set_title("between the first and the last period", fontsize=11)
    figure.tight_layout()
    return _png(figure)


def cloud(
    x: np.ndarray, y: np.ndarray, same: np.ndarray, *, title: str, xlabel: str, ylabel: str
) -> bytes:
    """One dot a cell; those on the diagonal apart."""
    figure, axes = pyplot().subplots(figsize=(5.6, 4.4))
    axes.plot(x[~same], y[~same], "o", ms=4, alpha=0.6, color=COLOURS[0], label="other periods")
    axes.plot(x[same], y[same], "o", ms=5, alpha=0.8, color=COLOURS[1], label="its own period")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return _png(figure)


def path(points: np.ndarray, groups: dict[str, list[str]], *, title: str) -> bytes:
    """Points in the plane, those of a group joined in order and labelled; the groups one after the other."""
    figure, axes = pyplot().subplots(figsize=(5.6, 4.6))
    start = 0
    for number, (name, labels) in enumerate(groups.items()):
        part = points[start : start + len(labels)]
        start += len(labels)
        shades = pyplot().get_cmap("viridis")(np.linspace(0, 0.92, max(2, len(labels))))
        axes.plot(part[:, 0], part[:, 1], color="#999999", lw=1, ls=("-", "--", ":")[number % 3])
        mark = ("o", "s", "x")[number % 3]
        axes.scatter(
            part[:, 0], part[:, 1], color=shades[: len(labels)], marker=mark, zorder=3, label=name
        )
        step = -(-len(labels) // 24)
        for label, point in list(zip(labels, part))[::step]:
            axes.annotate(label, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    if len(groups) > 1:
        axes.legend(fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.tight_layout()
    return _png(figure)


def bars(values: dict[str, tuple[float, float]], *, title: str, xlabel: str) -> bytes:
    """Horizontal bars with intervals: name -> (mean, half)."""
    figure, axes = pyplot().subplots(figsize=(6.8, 0.9 + 0.42 * len(values)))
    names = list(values)[::-1]
    means = [values[name][0] for name in names]
    halves = [values[name][1] for name in names]
    axes.barh(names, means, xerr=halves, color=COLOURS[0], ecolor="#333333", height=0.6)
    low, high = min(means), max(means)
    if low > 0:
        axes.set_xlim(low - 0.35 * (high - low or low), high + 0.2 * (high - low or high))
    axes.set_xlabel(xlabel)
    axes.set_title(title, fontsize=11)
    figure.tight_layout()
    return _png(figure)
