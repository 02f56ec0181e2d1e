"""What a comparison of arms found:  python -m tasks.myopia.report SWEEP_FOLDER… [--by data.padding]

Writes into the (first) folder

    myopia.md           losses, gaps, bonus and malus, gaps by context, warnings
    myopia.json         the same numbers
    myopia_gap.png      the gaps by context        myopia_angle.png    the gradient's parts in training

Arms that differ in anything but the arm, in seeds or in the learning rates tried are refused (arms.py).
"""

import argparse
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tasks.after_sweep import AfterSweep
from tasks.errors import UserError
from tasks.myopia.arms import Arm, read_arms
from tasks.myopia.gaps import Gap, context_bins, gap, label
from tasks.myopia.losses import Losses
from tasks.myopia.plots import plot_angles, plot_gaps
from tasks.run_folder import say, write_json
from zoo.report.stats import mean_interval

COLUMNS = (  # shown where they were measured, besides those of the last layer
    ("test/loss", "loss"),
    ("test/normalised_loss", "loss / p"),
    ("baseline/normalised_loss", "predicting 0"),
    ("test/exact_match", "exact match"),
)
MYOPIC = ("hidden", "kv")


class Report(AfterSweep):
    """Writes the report when a sweep has ended.

    by: keys that hold a condition to compare within; those after the first follow from it.
    """

    name = "error"

    def __init__(self, *, by: list[str] | None = None):
        self.by = list(by or [])

    def judge(self, folder: Path) -> None:
        say(f"report: {write_report([folder], by=self.by)}")


def write_report(folders: list[Path], *, by: Collection[str] = ()) -> Path:
    """Writes myopia.md and its companions; returns its path. Raises UserError as `read_arms`."""
    conditions = read_arms(folders, by=by)
    folder = folders[0]
    lines = ["# Myopia: what the arms cost", ""]
    numbers: dict[str, dict[str, Any]] = {}
    for condition, arms in conditions.items():
        suffix = "" if not condition else "_" + condition.rpartition("=")[2]
        record = numbers[condition or "all"] = {}
        if condition:
            lines += [f"## {condition}", ""]
        lines += [*_losses(arms, record), *_gaps(arms, record, folder, suffix)]
        lines += _angles(arms, folder / f"myopia_angle{suffix}.png")
    path = folder / "myopia.md"
    path.write_text("\n".join(lines).rstrip() + "\n")
    write_json(folder / "myopia.json", numbers)
    return path


def _losses(arms: dict[str, Arm], record: dict[str, Any]) -> Iterator[str]:
    """The table of arms; each at its best learning rate."""
    first = next(iter(next(iter(arms.values())).runs.values()))
    columns = [(metric, name) for metric, name in COLUMNS if metric in first.results]
    layers = [m for m in first.results if m.startswith("test/r2_window_sum@")]
    if layers:
        last = max(layers, key=lambda m: int(m.rpartition("layer")[2]))
        columns.append((last, "window sum, R² in the last layer"))
        columns.append((last.replace("test/", "control/"), "the same, untrained"))
    largest = [m for m in first.results if m.startswith("test/exact_match@")]
    columns += [(m, f"exact match, {m.partition('@')[2]}") for m in largest]
    rates = any(len(arm.tried) > 1 for arm in arms.values())
    header = ["arm", *(["optim.lr"] if rates else []), *(name for _, name in columns)]
    yield from ("| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1))
    for arm in arms.values():
        cells = [f"{arm.rate:g}"] if rates else []
        record[arm.name] = of = {
            "rate": arm.rate,
            "tried": {str(k): v for k, v in arm.tried.items()},
        }
        for metric, _ in columns:
            values = [run.results[metric] for run in arm.runs.values() if metric in run.results]
            if not values:
                cells.append("")
                continue
            found = mean_interval(values)
            of[metric] = {"mean": found.mean, "half": found.half, "seeds": found.n}
            half = "" if found.half is None else f" ± {found.half:.3f}"
            cells.append(f"{found.mean:.4f}{half}")
        yield "| " + " | ".join([arm.name, *cells]) + " |"
    seeds = len(next(iter(arms.values())).runs)
    yield from ("", f"Seeds: {seeds}; ± are 95% intervals over them.", "")
    if rates:
        yield "Validation loss by learning rate (each arm counts at its own best):"
        yield ""
        for arm in arms.values():
            tried = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in arm.tried.items())
            yield f"- {arm.name}: {tried}"
        yield ""
    if "vanilla" in arms and "test/normalised_loss" in first.results:
        base = arms["vanilla"].mean("test/normalised_loss")
        for name in MYOPIC:
            if name in arms and base:
                times = (arms[name].mean("test/normalised_loss") or 0.0) / base
                record[name]["times_vanilla"] = times
                yield from (f"{name} / vanilla, each at its best rate: **{times:.1f}**", "")


def _gaps(arms: dict[str, Arm], record: dict[str, Any], folder: Path, suffix: str) -> Iterator[str]:
    """Differences on the same sequences, overall and by context."""
    if "vanilla" not in arms or len(arms) < 2:
        return
    losses = {
        name: {seed: Losses.read(run.folder) for seed, run in arm.runs.items()}
        for name, arm in arms.items()
    }
    pairs = [(f"gap, {name}", name, "vanilla") for name in arms if name not in ("vanilla", "local")]
    if "local" in arms:
        pairs.append(("bonus (vanilla - local)", "vanilla", "local"))
        pairs += [(f"malus ({n} - local)", n, "local") for n in MYOPIC if n in arms]
    found = {title: gap(losses[a], losses[b]) for title, a, b in pairs}
    record["gaps"] = {title: _plain(value) for title, value in found.items()}
    yield from ("| difference | mean | ± sequences | ± seeds |", "|---|---:|---:|---:|")
    for title, value in found.items():
        yield f"| {title} | {value.mean:+.4f} | {_half(value.sequences)} | {_half(value.seeds)} |"
    yield ""
    length = next(iter(losses["vanilla"].values())).losses.shape[1]
    bins = context_bins(length)
    others = [name for name in arms if name != "vanilla"]
    table = {n: [gap(losses[n], losses["vanilla"], where) for where in bins] for n in others}
    bins = [b for i, b in enumerate(bins) if any(table[n][i].sequences is not None for n in others)]
    table = {n: [g for g in table[n] if g.sequences is not None] for n in others}
    record["by_context"] = {
        n: {label(b): _plain(g) for b, g in zip(bins, gaps)} for n, gaps in table.items()
    }
    yield "Loss minus vanilla's by the number of tokens seen before (± over sequences):"
    yield ""
    yield "| arm | " + " | ".join(label(b) for b in bins) + " |"
    yield "|---|" + "---:|" * len(bins)
    for name, gaps in table.items():
        cells = [f"{g.mean:+.3f} ± {g.sequences:.3f}" for g in gaps if g.sequences is not None]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    if "zero" in arms:
        yield from ("The picture leaves `zero` out, whose scale is another.", "")
    x = [(b.start + b.stop - 1) / 2 for b in bins]
    curves = {
        n: (x, [g.mean for g in gaps], [g.sequences or 0.0 for g in gaps])
        for n, gaps in table.items()
        if n != "zero" or len(table) == 1
    }
    plot_gaps(folder / f"myopia_gap{suffix}.png", curves)
    for name in MYOPIC:
        first = table[name][0] if name in table and bins[0].start == 0 else None
        if first is not None and first.sequences is not None and first.mean > first.sequences:
            yield (
                f"**Warning:** position 0 of `{name}` is {first.mean:.3f} worse than vanilla. It sees "
                "nothing before itself, so no missing preparation can explain that: this arm is less "
                "well optimised, and its gap measures that too. Train longer, or sweep optim.lr per arm."
            )
            yield ""


def _angles(arms: dict[str, Arm], path: Path) -> Iterator[str]:
    curves = {}
    for name, arm in arms.items():
        measured = [
            run.curves["train/gradient_cosine"]
            for run in arm.runs.values()
            if "train/gradient_cosine" in run.curves
        ]
        if measured:
            steps = measured[0].step
            columns = zip(*(curve.value for curve in measured))
            curves[name] = (steps, [sum(values) / len(values) for values in columns])
    if not curves:
        return
    plot_angles(path, curves)
    yield "Cosine of the myopic and the future part of the gradient (hidden), mean over seeds:"
    yield ""
    steps = next(iter(curves.values()))[0]
    yield "| arm | " + " | ".join(f"step {int(step)}" for step in steps) + " |"
    yield "|---|" + "---:|" * len(steps)
    for name, (_, cosines) in curves.items():
        yield f"| {name} | " + " | ".join(f"{value:+.2f}" for value in cosines) + " |"
    yield ""


def _plain(value: Gap) -> dict[str, float | None]:
    return {"mean": value.mean, "sequences": value.sequences, "seeds": value.seeds}


def _half(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Gap, bonus and malus of the arms of a sweep.")
    parser.add_argument("folders", nargs="+", type=Path, help="sweep or run folders")
    parser.add_argument(
        "--by", nargs="*", default=[], help="keys to compare within, e.g. data.padding"
    )
    arguments = parser.parse_args()
    try:
        path = write_report(arguments.folders, by=arguments.by)
    except (UserError, ValueError, FileNotFoundError) as error:
        say(f"error: {error}")
        sys.exit(2)
    print(path.read_text())
    say(f"written: {path}")


if __name__ == "__main__":
    main()
