"""Pictures: accuracy over the number of demonstrations, of one run and of a sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.report.stats import Estimate

# Okabe and Ito's colours: told apart with any colour vision, and by their lightness in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = "osD^vPX*"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _axes(plt: Any, shots: list[int], title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.set_xlabel("demonstrations")
    axes.set_ylabel("accuracy")
    axes.set_xticks(shots)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_fewshot(curves: Mapping[str, Mapping[int, float]], path: Path) -> Path:
    """One run: a line a set."""
    plt = _pyplot()
    shots = sorted({k for curve in curves.values() for k in curve})
    figure, axes = _axes(plt, shots, "in-context accuracy")
    for i, (label, curve) in enumerate(curves.items()):
        x = sorted(curve)
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8]}
        axes.plot(x, [curve[k] for k in x], label=label, **style)
    axes.legend(frameon=False)
    return _saved(plt, figure, path)


def plot_arms(
    arms: Mapping[str, Mapping[int, Estimate]], path: Path, *, chance: float | None = None
) -> Path:
    """A sweep: a line a way of pre-training, mean and 95% interval over the seeds."""
    plt = _pyplot()
    shots = sorted({k for curve in arms.values() for k in curve})
    figure, axes = _axes(plt, shots, "in-context accuracy by pre-training")
    width = 0.06 * (max(shots) - min(shots) or 1) / max(len(arms), 1)
    for i, (label, curve) in enumerate(arms.items()):
        x = [k + width * (i - len(arms) / 2) for k in sorted(curve)]
        y = [curve[k].mean for k in sorted(curve)]
        half = [curve[k].half or 0.0 for k in sorted(curve)]
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8]}
        axes.errorbar(x, y, yerr=half, label=label, capsize=2, **style)
    if chance is not None:
        axes.axhline(chance, color="0.7", lw=0.8, zorder=0)
        axes.annotate("chance", (max(shots), chance), color="0.5", fontsize=8, va="bottom")
    axes.legend(frameon=False)
    return _saved(plt, figure, path)


def _saved(plt: Any, figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
