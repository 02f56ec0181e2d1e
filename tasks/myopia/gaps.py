"""Gap, bonus and malus (§1.4), each a difference of two arms' losses on the same sequences.

    gap   = L(myopic) - L(vanilla)       what the missing gradient costs
    bonus = L(vanilla) - L(local)        what the present gains when the past need not serve it
    malus = L(myopic) - L(local)         what it costs to see myopic instead of vanilla states
    gap   = malus - bonus

Two intervals, both 95% of Student's t: over sequences, of the differences averaged over seeds (these
trained models, other text), and over seeds (other trained models, this text).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.errors import UserError
from tasks.myopia.losses import Losses
from zoo.report.stats import mean_interval


@dataclass(frozen=True)
class Gap:
    """A mean difference with its two half-widths; None where there are too few."""

    mean: float
    sequences: float | None
    seeds: float | None

    def __str__(self) -> str:
        if not np.isfinite(self.mean):
            return "not measured"
        seeds = "" if self.seeds is None else f", seeds ± {self.seeds:.4f}"
        sequences = "" if self.sequences is None else f" ± {self.sequences:.4f}"
        return f"{self.mean:+.4f}{sequences}{seeds}"


def gap(arm: Mapping[str, Losses], base: Mapping[str, Losses], context: slice | None = None) -> Gap:
    """Mean over sequences and seeds of arm - base, both by seed; within a range of contexts, or all.

    context: of positions that see as many tokens before themselves. Raises UserError where the two
    were not tested on the same sequences.
    """
    rows = []
    for seed in arm:
        a, b = arm[seed], base[seed]
        if a.targets != b.targets or a.losses.shape != b.losses.shape:
            raise UserError(
                f"seed {seed}: the arms were tested on different sequences; test them on the same data"
            )
        difference = a.losses.astype(np.float64) - b.losses
        if context is not None:
            inside = (a.context >= context.start) & (a.context < context.stop)
            difference = np.where(inside, difference, np.nan)
        counted = np.isfinite(difference)
        total = np.where(counted, difference, 0.0).sum(1)
        rows.append(np.where(counted.any(1), total / np.maximum(counted.sum(1), 1), np.nan))
    by_sequence = np.stack(rows)[:, np.isfinite(rows[0])]
    if not by_sequence.shape[1]:
        return Gap(float("nan"), None, None)
    sequences = mean_interval(by_sequence.mean(0).tolist())
    seeds = mean_interval(by_sequence.mean(1).tolist())
    return Gap(sequences.mean, sequences.half, seeds.half)


def context_bins(length: int) -> list[slice]:
    """0, 1, 2-3, 4-7, … up to the length."""
    edges = [0, 1]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def label(context: slice) -> str:
    """`4-7`, or the one number that it is."""
    last = context.stop - 1
    return str(last) if last == context.start else f"{context.start}-{last}"
