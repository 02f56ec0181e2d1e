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
    n = len(labels)
    size = min(11.0, 2.6 + 0.55 * n)
    figure, axes = pyplot().subplots(figsize=(size + 0.9, size))
    finite = matrix[np.isfinite(matrix)]
    limit = np.abs(finite).max() if len(finite) else 1.0
    low, high = (-limit, limit) if diverging else (finite.min(), finite.max())
    image = axes.imshow(
        matrix, origin="lower", cmap="RdBu_r" if diverging else "viridis", vmin=low, vmax=high
    )
    step = -(-n // 24)
    axes.set_xticks(range(0, n, step), labels[::step], rotation=90 if n > 8 else 0)
    axes.set_yticks(range(0, n, step), labels[::step])
    axes.set_xlabel("evaluated on")
    axes.set_ylabel("trained on")
    axes.set_title(title, fontsize=11)
    if n <= 14:
        for i in range(n):
            for j in range(n):
                if np.isfinite(matrix[i, j]):
                    level = (matrix[i, j] - low) / (high - low or 1)
                    dark = level < 0.25 or (diverging and level > 0.75)
                    text = f"{matrix[i, j]:.{digits}f}"
                    colour = "white" if dark else "black"
                    axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, fraction=0.046)
    figure.tight_layout()
    return _png(figure)


def curves(
    x: np.ndarray,
    lines: dict[str, np.ndarray],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    marks: dict[str, float] | None = None,
) -> bytes:
    """Lines over x, coloured from first to last; `marks` puts a dot on each at its own x."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.92, max(2, len(lines))))
    for shade, (name, values) in zip(shades, lines.items()):
        axes.plot(x, values, color=shade, label=name)
        if marks and name in marks:
            at = marks[name]
            axes.plot(at, np.interp(at, x, values), "o", color=shade)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, ncols=2)
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


def path(points: np.ndarray, labels: list[str], *, title: str) -> bytes:
    """Points in the plane, joined in order and labelled."""
    figure, axes = pyplot().subplots(figsize=(5.6, 4.6))
    shades = pyplot().get_cmap("viridis")(np.linspace(0, 0.92, max(2, len(labels))))
    axes.plot(points[:, 0], points[:, 1], color="#999999", lw=1)
    axes.scatter(points[:, 0], points[:, 1], color=shades[: len(labels)], zorder=3)
    step = -(-len(labels) // 24)
    for label, point in list(zip(labels, points))[::step]:
        axes.annotate(label, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
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


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """The two principal coordinates (n, 2) of vectors (n, d), made to length one before."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)
    return U[:, :2] * S[:2]
