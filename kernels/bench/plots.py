"""Every ratio beside its goal, one picture a device."""

from __future__ import annotations

from pathlib import Path

from kernels.bench.measure import Row


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Writes <device>.png for every device with a goal and a value to show."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    written = []
    for device in sorted({row.device for row in rows}):
        shown = [(row, row.share) for row in rows if row.device == device and row.share is not None]
        if not shown:
            continue
        figure, axes = plt.subplots(figsize=(9, 1 + 0.35 * len(shown)))
        # The share of its goal that a row used up, so that all have the same finish line.
        for place, (row, share) in enumerate(shown):
            axes.barh(place, share, color="#2b7a4b" if row.verdict == "met" else "#b3402a")
            text = f" {row.value:.3g}{row.unit} (goal {row.goal:.3g})"
            axes.text(min(share, 1.0), place, text, va="center", fontsize=7)
        axes.axvline(1.0, color="black", linewidth=1)
        labels = [f"{row.name}, {row.shape.split(';')[0]}" for row, _ in shown]
        axes.set_yticks(range(len(shown)), labels, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.5, *(share for _, share in shown)) * 1.05)
        axes.set_xlabel("share of the goal used (left of the line: met)")
        figure.tight_layout()
        path = folder / f"{device}.png"
        figure.savefig(path, dpi=150)
        plt.close(figure)
        written.append(path)
    return written
