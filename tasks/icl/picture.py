"""A sweep of task=icl as one picture: raw SimAOU by layer with its controls, a panel a family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.extrapolation.plots import COLOURS, pyplot
from zoo.report.stats import mean_interval
from zoo.report.variants import Variant

BLUE, ORANGE, GREEN, _, YELLOW, SKY, _, _, GREY, _ = COLOURS
BARS = (
    ("acc@zsl", "zero-shot", GREY),
    ("acc@ft", "fine-tuned", SKY),
    ("acc@icl", "in context", BLUE),
)
LINES = (
    ("sim_aou@raw by layer", "trained", BLUE),
    ("sim_aou@raw_other by layer", "other demonstrations", GREEN),
    ("sim_aou@raw+untrained by layer", "untrained", ORANGE),
    ("sim_aou@random by layer", "random update", GREY),
)


def plot_sweep(variants: Mapping[str, Variant], path: Path) -> Path:
    """Draws the picture to `path` (PNG). variants: title -> runs that differ in their seed alone."""
    plt = pyplot()
    widths = [1.2] + [2] * len(variants)
    figure, axes = plt.subplots(
        1,
        1 + len(variants),
        figsize=(4.2 + 3.8 * len(variants), 3.8),
        layout="constrained",
        gridspec_kw={"width_ratios": widths},
    )
    _accuracies(axes[0], variants)
    for panel, (title, variant) in zip(axes[1:], variants.items(), strict=True):
        _layers(panel, variant)
        panel.set_title(title, fontsize=10, loc="left")
        if panel is not axes[1]:
            panel.sharey(axes[1])
    axes[1].set_ylabel("cosine of in-context and fine-tuning update")
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=180)
    plt.close(figure)
    return path


def _accuracies(axes: Any, variants: Mapping[str, Variant]) -> None:
    for i, variant in enumerate(variants.values()):
        for j, (metric, label, colour) in enumerate(BARS):
            found = [*variant.values(f"test/{metric}").values()]
            of = mean_interval(found)
            axes.bar(i + 0.27 * (j - 1), of.mean, 0.25, yerr=of.half or 0, color=colour,
                     label=label if not i else None, error_kw={"lw": 0.8})  # fmt: skip
    axes.set_xticks(range(len(variants)), [title.partition(":")[0] for title in variants])
    axes.set_ylim(0, 105)
    axes.set_ylabel("accuracy (%)")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)


def _layers(axes: Any, variant: Variant) -> None:
    runs = variant.one_per_seed()
    for name, label, colour in LINES:
        curves = [run.series[name]["y"] for run in runs if name in run.series]
        curves = [curve for curve in curves if None not in curve]
        if not curves:
            continue
        points = [mean_interval(values) for values in zip(*curves)]
        x = range(1, len(points) + 1)
        axes.plot(x, [p.mean for p in points], "o-", ms=4, color=colour, label=label)
        low = [p.mean - (p.half or 0) for p in points]
        high = [p.mean + (p.half or 0) for p in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.set_xticks(list(x))
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.set_xlabel("layer")
    axes.spines[["top", "right"]].set_visible(False)
