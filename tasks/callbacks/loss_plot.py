"""plots/loss.png: training and validation loss over the tokens seen."""

from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from tasks.metrics_file import read_metrics


class LossPlot(Callback):
    """Drawn from metrics.csv when training ends, so a resumed run's plot shows all of it."""

    def __init__(self, *, folder: str | Path):
        self.folder = Path(folder)

    def on_fit_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            plot_losses(self.folder)


def plot_losses(folder: Path) -> Path | None:
    """Draws a run's `plots/loss.png` from its metrics.csv; None where nothing was logged."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_metrics(folder / "metrics.csv")
    curves = {
        name: [
            (float(row.get("tokens", row["step"])), float(row[f"{name}/loss"]))
            for row in rows
            if f"{name}/loss" in row
        ]
        for name in ("train", "val")
    }
    if not any(curves.values()):
        return None
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    if curves["train"]:
        axes.plot(*zip(*curves["train"]), label="train", lw=0.9, color="#999999")
    if curves["val"]:
        axes.plot(*zip(*curves["val"]), label="val", marker="o", ms=3)
    axes.set(xlabel="tokens seen", ylabel="loss (nats per token)", xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = folder / "plots" / "loss.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
