"""The pictures of one run: perplexity by length and position, and the curves behind its resolution."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours: told apart with any colour vision, and by their lightness in print.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
    "#7F7F7F",
    "#6A3D9A",
)


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def length_axis(axes: Any, lengths: list[int], N: int) -> None:
    """A logarithmic axis of lengths in powers of two, with the training length marked."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.axvline(N, color="0.7", lw=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def value_axis(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis of perplexities with plain round numbers where they do not crowd."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    if high < 3 * low:
        ticks = pyplot().MaxNLocator(6).tick_values(low, high)
    else:
        ticks = [step * 10.0**e for e in range(-1, 7) for step in (1, 1.5, 2, 3, 4, 5, 6, 8)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def plot_perplexity(
    folder: Path,
    N: int,
    by_length: Mapping[str, tuple[list[int], list[float]]],
    by_position: Mapping[str, tuple[list[float], list[float]]],
) -> Path:
    """plots/extrapolation.png. Both mappings: label of the mask -> (x, perplexity)."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (label, (x, y)), colour in zip(by_length.items(), COLOURS):
        left.plot(x, y, "o-", ms=3.5, lw=1.5, color=colour, label=label)
    lengths = sorted({n for x, _ in by_length.values() for n in x})
    length_axis(left, lengths, N)
    values = [v for _, y in by_length.values() for v in y if np.isfinite(v)]
    value_axis(left, min(values) * 0.97, max(values) * 1.05)
    left.set(xlabel="length of the segment (tokens)", ylabel="perplexity, all positions")
    left.legend(frameon=False, fontsize=8)
    for (label, (position, y)), colour in zip(by_position.items(), COLOURS):
        right.plot(position, y, lw=1.5, color=colour, label=label)
    length_axis(right, lengths, N)
    values = [v for _, y in by_position.values() for v in y if np.isfinite(v)]
    value_axis(right, min(values) * 0.95, max(values) * 1.05)
    right.set(
        xlabel="position in the segment", ylabel=f"perplexity there, segments of {lengths[-1]}"
    )
    right.set_xlim(1, lengths[-1])
    return _save(plt, figure, folder / "plots" / "extrapolation.png")


def plot_scores(folder: Path, N: int, scheme: np.ndarray | None, layers: list[np.ndarray]) -> Path:
    """plots/expected_scores.png: the oscillation figure.

    scheme: (H or 1, R) the scheme's own curve; layers: (H, R) measured, one a layer.
    """
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    if scheme is not None:
        if len(scheme) > 1:
            left.plot(scheme.T, lw=0.6, color="0.75")
        left.plot(scheme.mean(0), lw=1.6, color=COLOURS[0])
    left.set_title("the scheme alone: every content alike", fontsize=10)
    for index, (layer, colour) in enumerate(zip(layers, COLOURS)):
        right.plot(layer.T - layer[:, :1].T, lw=0.4, color=colour, alpha=0.35)
        mean = layer.mean(0)
        right.plot(mean - mean[0], lw=1.6, color=colour, label=f"layer {index + 1}")
    right.set_title("measured, relative to distance 0 (thin: heads)", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.axvline(N, color="0.7", lw=0.8, zorder=0)
        axes.set(xlabel="distance (tokens)", ylabel="expected score before the softmax")
        axes.set_xlim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    return _save(plt, figure, folder / "plots" / "expected_scores.png")


def _save(plt: Any, figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
