"""The learning curves of a sweep: trace accuracy over tokens, a panel a set, a line a variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.code_execution.formats import SETS
from zoo.report.runs import Curve

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_STYLES = ("-", "--", ":", "-.")


def draw(variants: Mapping[str, Sequence[Mapping[str, Curve]]], path: Path) -> None:
    """variants: name -> the curves of each seed. The line is the mean, the band the seeds' range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, len(SETS), figsize=(9.5, 5.2), sharex=True, layout="constrained", squeeze=False
    )
    for column, name in enumerate(SETS):
        for row, (metric, label) in enumerate(
            ((f"val/loss@{name}", "loss (nats per token)"), (f"val/trace_accuracy@{name}", "traces right, %"))
        ):  # fmt: skip
            axes = panels[row, column]
            for i, (variant, runs) in enumerate(variants.items()):
                curves = [run[metric] for run in runs if metric in run]
                if not curves:
                    continue
                length = min(len(c.value) for c in curves)
                x = np.array(curves[0].tokens[:length]) / 1e6
                y = np.array([c.value[:length] for c in curves])
                axes.fill_between(x, y.min(0), y.max(0), color=_COLOURS[i % 4], alpha=0.15, lw=0)
                axes.plot(
                    x, y.mean(0), _STYLES[i % 4], color=_COLOURS[i % 4], label=variant, lw=1.6
                )
            if row == 0:
                axes.set_title(name, fontsize=10)
            else:
                axes.set_xlabel("tokens (millions)")
                axes.set_ylim(bottom=0)
            if column == 0:
                axes.set_ylabel(label)
            axes.spines[["top", "right"]].set_visible(False)
    drawn = [axes for axes in panels.flat if axes.lines]
    if drawn:
        drawn[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
