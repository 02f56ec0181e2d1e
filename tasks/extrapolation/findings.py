"""What one run's test found: collected as it is measured, then written, drawn and printed.

Names as in task.py. Of the curves in series.json, those by distance are relative to distance 0 and
averaged over layers and heads.
"""

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tasks.extrapolation.invariance import INVARIANT
from tasks.extrapolation.metric import monotone_fraction, resolution
from tasks.extrapolation.perplexity import Losses
from tasks.extrapolation.plots import plot_perplexity, plot_scores
from tasks.run_folder import write_json

FLAT = 1.01  # a scheme extrapolates where no perplexity beyond N is more than 1% above that at N


class Findings:
    """`results` for results.json, `series` for series.json, and what the plots need."""

    def __init__(self, N: int):
        self.N = N
        self.results: dict[str, Any] = {}
        self.series: dict[str, dict[str, Any]] = {}
        self._by_length: dict[str, tuple[list[int], list[float]]] = {}
        self._by_position: dict[str, tuple[list[float], list[float]]] = {}
        self._scheme: Tensor | None = None
        self._layers: list[Tensor] = []

    def add_losses(self, losses: dict[tuple[int, str], Losses]) -> None:
        """Perplexities of every (length, suffix), and those by position at the longest length."""
        late = max(1, self.N // 2)
        for (length, suffix), of in losses.items():
            at = f"{length}{suffix}"
            self.results[f"test/ppl@{at}"] = of.perplexity()
            self.results[f"test/bits_per_byte@{at}"] = of.bits_per_byte
            self.results[f"test/late_ppl@{at}"] = of.perplexity(last=min(length, late))
            lengths, perplexities = self._by_length.setdefault(_label(suffix), ([], []))
            lengths.append(length)
            perplexities.append(of.perplexity())
        for suffix in dict.fromkeys(suffix for _, suffix in losses):
            longest = max(length for length, other in losses if other == suffix)
            x, y = losses[longest, suffix].by_position()
            self._by_position[_label(suffix)] = x, y
            self.series[f"perplexity by position, {_label(suffix)}"] = {
                "x": x,
                "y": y,
                "xlabel": "position in the segment",
                "ylabel": "perplexity",
                "xscale": "log",
                "yscale": "log",
            }
            self._add_ratio(suffix, {n: of for (n, s), of in losses.items() if s == suffix})

    def _add_ratio(self, suffix: str, by_length: dict[int, Losses]) -> None:
        beyond = [of.perplexity() for length, of in by_length.items() if length > self.N]
        if beyond and self.N in by_length:
            worst = max(beyond) / by_length[self.N].perplexity()
            self.results["test/ppl_ratio" + suffix.replace("+", "@")] = worst
            self.results[f"extrapolates{suffix}"] = worst <= FLAT

    def add_scores(self, at: str, layers: list[Tensor]) -> None:
        """Resolutions of the measured curves, (H, R) a layer; nothing where one is not finite."""
        if not layers or not all(layer.isfinite().all() for layer in layers):
            return
        pooled = [layer.mean(0) for layer in layers]
        per_head = torch.stack([resolution(layer) for layer in layers])
        self.results |= {
            f"test/resolution@{at}": _mean([resolution(s) for s in pooled]),
            f"test/resolution_heads@{at}": float(per_head.mean()),
            f"test/resolution_zero@{at}": _mean([resolution(s, tail="zero") for s in pooled]),
            f"test/monotone@{at}": _mean([monotone_fraction(s) for s in pooled]),
        }
        self.series[f"expected score by distance, length {at}"] = _by_distance(torch.stack(pooled))
        self.series[f"resolution by head, length {at}"] = {
            "x": list(range(1, per_head.numel() + 1)),
            "y": per_head.flatten().tolist(),
            "xlabel": "head, counted from the first layer on",
            "ylabel": "attention resolution",
        }
        if "+" not in at:
            self._layers = layers

    def add_schemes(self, length: int, schemes: list[Tensor]) -> None:
        """Resolutions of the schemes' own curves, (H or 1, length) a layer."""
        if all(scheme.isfinite().all() for scheme in schemes):
            pooled = [scheme.mean(0) for scheme in schemes]
            mean = _mean([resolution(curve) for curve in pooled])
            self.results[f"test/resolution_scheme@{length}"] = mean
            self.series[f"score of the scheme alone, length {length}"] = _by_distance(
                torch.stack(pooled)
            )
            self._scheme = schemes[0]

    def add_translation(self, change: float) -> None:
        """The largest change of a log-probability, in nats, by a shift."""
        self.results["test/translation_change"] = change
        self.results["translation_invariant"] = change < INVARIANT

    def write(self, folder: str | Path) -> None:
        """series.json and plots/*.png of a run's folder."""
        folder = Path(folder)
        write_json(folder / "series.json", self.series)
        if self._by_length:
            plot_perplexity(folder, self.N, self._by_length, self._by_position)
        if self._layers or self._scheme is not None:
            scheme = None if self._scheme is None else self._scheme.numpy()
            plot_scores(folder, self.N, scheme, [layer.numpy() for layer in self._layers])

    def show(self) -> None:
        """Prints perplexity by length, and the paper's Table 1 for this model, as measured."""
        console = Console()
        table = Table(title=f"perplexity by length, trained at {self.N}", title_justify="left")
        table.add_column("length", justify="right")
        for label in self._by_length:
            table.add_column(label, justify="right")
        columns = [dict(zip(x, y)) for x, y in self._by_length.values()]
        for length in dict.fromkeys(n for column in columns for n in column):
            table.add_row(str(length), *(f"{column[length]:.3f}" for column in columns))
        console.print(table)
        lines: list[str] = []
        if "translation_invariant" in self.results:
            lines.append(
                f"translation invariant: {_yes(self.results['translation_invariant'])} "
                f"(largest change {self.results['test/translation_change']:.2g} nats)"
            )
        for label, suffix in zip(self._by_length, ["", *_suffixes(self.results)]):
            ratio = self.results.get("test/ppl_ratio" + suffix.replace("+", "@"))
            if ratio is not None:
                lines.append(
                    f"extrapolates, {label}: {_yes(self.results[f'extrapolates{suffix}'])} "
                    f"(worst perplexity beyond {self.N} is {ratio:.3f} of that at {self.N})"
                )
        console.print("\n".join(lines), soft_wrap=True)


def _suffixes(results: dict[str, Any]) -> list[str]:
    return [name.removeprefix("extrapolates") for name in results if name[:13] == "extrapolates+"]


def _label(suffix: str) -> str:
    return suffix.lstrip("+") or "full causal"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _by_distance(curves_LR: Tensor) -> dict[str, Any]:
    curve_R = curves_LR.mean(0)
    return {
        "x": list(range(len(curve_R))),
        "y": (curve_R - curve_R[0]).tolist(),
        "xlabel": "distance (tokens)",
        "ylabel": "expected score before the softmax, relative to distance 0",
    }
