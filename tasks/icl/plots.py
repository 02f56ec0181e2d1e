"""The pictures of one run: every similarity by layer with its controls, and the accuracies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.extrapolation.plots import COLOURS, pyplot
from tasks.icl.analysis import Findings

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK, BROWN, GREY, PURPLE = COLOURS
PANELS: dict[str, list[tuple[str, str, str, str, str]]] = {
    "SimAOU: do the updates point the same way?": [
        ("sim_aou", "", "trained, normalised", BLUE, "-"),
        ("sim_aou@raw", "", "trained, raw", BLUE, "--"),
        ("sim_aou@raw_other", "", "other demonstrations, raw", GREEN, "--"),
        ("sim_aou", "untrained", "untrained, normalised", ORANGE, "-"),
        ("sim_aou@raw", "untrained", "untrained, raw", ORANGE, "--"),
        ("sim_aou@random", "", "random update", GREY, ":"),
    ],
    "SimAM: is the same attended to?": [
        ("sim_am", "", "after fine-tuning", BLUE, "-"),
        ("sim_am@before", "", "before", SKY, "-"),
        ("sim_am@delta", "", "of the changes", BLUE, "--"),
        ("sim_am", "untrained", "untrained, after", ORANGE, "-"),
        ("sim_am@delta", "untrained", "untrained, changes", ORANGE, "--"),
    ],
    "Kendall: are demonstrations ranked alike?": [
        ("kendall", "", "trained", BLUE, "-"),
        ("kendall@random", "", "random ranks", GREY, ":"),
        ("kendall", "untrained", "untrained", ORANGE, "-"),
    ],
}


def plot_findings(folder: str | Path, findings: Mapping[str, Findings]) -> Path:
    """plots/similarities.png."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.4), layout="constrained")
    _accuracies(axes[0], findings)
    curves = {net: found.curves() for net, found in findings.items()}
    for panel, (title, lines) in zip(axes[1:], PANELS.items(), strict=True):
        for name, net, label, colour, style in lines:
            if name in curves.get(net, {}):
                y = curves[net][name]
                x = range(1, len(y) + 1)
                panel.plot(x, y, style, marker="o", ms=3, color=colour, label=label)
        panel.axhline(0, color="0.8", lw=0.8, zorder=0)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("layer")
        panel.set_xticks(range(1, len(next(iter(curves[""].values()))) + 1))
        panel.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18), ncol=2)
        panel.spines[["top", "right"]].set_visible(False)
    path = Path(folder) / "plots" / "similarities.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _accuracies(axes: Any, findings: Mapping[str, Findings]) -> None:
    nets = [(net, colour) for net, colour in (("", BLUE), ("untrained", ORANGE)) if net in findings]
    settings = {"zsl": "zero-shot", "ft": "fine-tuned", "icl": "in context"}
    for i, (net, colour) in enumerate(nets):
        numbers = findings[net].numbers()
        heights = [numbers[f"acc@{setting}"] for setting in settings]
        places = [x + 0.4 * (i - (len(nets) - 1) / 2) for x in range(len(settings))]
        axes.bar(places, heights, 0.38, color=colour, label=net or "trained")
    axes.set_xticks(range(len(settings)), settings.values())
    axes.set_ylim(0, 100)
    axes.set_title("accuracy (%)", fontsize=10)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18))
    axes.spines[["top", "right"]].set_visible(False)


def plot_regression(folder: str | Path, curves: Mapping[str, list[float]]) -> Path:
    """plots/regression.png: errors, and distances from the network's predictions, by demonstrations."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    names = {"gd1": "one step of descent", "gd4": "four steps", "ols": "least squares"}
    colours = {"gd1": GREEN, "gd4": SKY, "ols": BLACK}
    panels[0].plot(curves["mse"], "o-", ms=3.5, color=BLUE, label="network")
    panels[0].plot(curves["mse@untrained"], ":", color=ORANGE, label="untrained")
    for name, label in names.items():
        panels[0].plot(curves[f"mse_{name}"], color=colours[name], lw=1.2, label=label)
        panels[1].plot(curves[f"distance_{name}"], "o-", ms=3.5, color=colours[name], label=label)
    for panel, title in zip(panels, ("squared error", "squared distance from the network")):
        panel.set_yscale("log")
        panel.set_ylim(1e-4, None)
        panel.set(xlabel="demonstrations", title=title)
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    path = Path(folder) / "plots" / "regression.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
