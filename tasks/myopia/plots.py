"""The pictures of the myopia tasks: of one run, and of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tasks.extrapolation.plots import COLOURS, pyplot


def plot_probes(folder: Path, lags: list[int], table: Mapping[str, list[list[float]]]) -> Path:
    """plots/probes.png. table: trained and untrained -> R^2 by layer of each lag and the window sum."""
    plt = pyplot()
    figure, panels = plt.subplots(1, len(table), figsize=(9, 3.2), layout="constrained")
    for axes, (name, layers) in zip(panels, table.items()):
        for layer, r2 in enumerate(layers):
            colour = COLOURS[layer % len(COLOURS)]
            axes.plot(lags, r2[:-1], "o-", ms=3, lw=1.4, color=colour, label=f"layer {layer}")
            axes.axhline(r2[-1], color=colour, lw=1, ls=":")
        axes.set_title(f"{name} (dotted: window sum)", fontsize=10)
        axes.set(xlabel="lag i of sin(b x[n-i])", ylabel="held-out R²", ylim=(-0.1, 1.05))
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].legend(frameon=False, fontsize=8)
    return _save(plt, figure, folder / "plots" / "probes.png")


def plot_neurons(folder: Path, maps: Mapping[str, Sequence[Tensor]]) -> Path:
    """plots/neurons.png: |correlation|^0.5 of each neuron (row) with each lag (column), by layer."""
    plt = pyplot()
    layers = len(next(iter(maps.values())))
    figure, grid = plt.subplots(
        len(maps), layers, figsize=(2.4 * layers + 1, 5), layout="constrained", squeeze=False
    )
    image: Any = None
    for row, (name, of) in zip(grid, maps.items()):
        for layer, (axes, values) in enumerate(zip(row, of)):
            shown = values.abs().sqrt().cpu().numpy()
            image = axes.imshow(shown, vmin=0, vmax=0.5, aspect="auto", cmap="viridis")
            axes.set_title(f"layer {layer}, {name}", fontsize=9)
            axes.set(xlabel="lag", ylabel="neuron" if layer == 0 else "")
    figure.colorbar(image, ax=grid, label="|correlation|^0.5")
    return _save(plt, figure, folder / "plots" / "neurons.png")


def plot_exact_match(folder: Path, table: Mapping[str, Mapping[str, float]]) -> Path:
    """plots/exact_match.png. table: `AxB` -> share and count."""
    plt = pyplot()
    sizes = sorted({int(n) for name in table for n in name.split("x")})
    values = np.full((len(sizes), len(sizes)), np.nan)
    for name, cell in table.items():
        a, b = (sizes.index(int(n)) for n in name.split("x"))
        values[a, b] = cell["share"]
    figure, axes = plt.subplots(figsize=(4, 3.4), layout="constrained")
    axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    for (a, b), share in np.ndenumerate(values):
        if np.isfinite(share):
            colour = "white" if share < 0.6 else "black"
            axes.text(b, a, f"{share:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(sizes)), map(str, sizes))
    axes.set_yticks(range(len(sizes)), map(str, sizes))
    axes.set(xlabel="digits of y", ylabel="digits of x", title="exact match")
    return _save(plt, figure, folder / "plots" / "exact_match.png")


def plot_gaps(
    path: Path, curves: Mapping[str, tuple[list[float], list[float], list[float]]]
) -> Path:
    """Differences to vanilla by context, with intervals. curves: arm -> x, mean, half-width."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (name, (x, mean, half)), colour in zip(curves.items(), COLOURS):
        axes.errorbar(x, mean, half, fmt="o-", ms=3.5, lw=1.4, capsize=2, color=colour, label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlim(min(x[0] for x, _, _ in curves.values()) - 0.15)
    ticks = next(iter(curves.values()))[0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="tokens seen before the position", ylabel="loss minus vanilla's")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return _save(plt, figure, path)


def plot_angles(path: Path, curves: Mapping[str, tuple[list[float], list[float]]]) -> Path:
    """Cosine of the myopic and the future gradient through training. curves: arm -> steps, cosine."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for (name, (x, y)), colour in zip(curves.items(), COLOURS):
        axes.plot(x, y, "o-", ms=3, lw=1.4, color=colour, label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(xlabel="step", ylabel="cosine of myopic and future gradient")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return _save(plt, figure, path)


def _save(plt: Any, figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
