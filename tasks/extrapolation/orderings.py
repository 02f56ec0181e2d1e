"""Do the published orderings hold?  python -m tasks.extrapolation.orderings SWEEP_FOLDER

Each ordering of the LeX paper (arXiv 2212.10554, Tables 2 and 5) is a row of claims about ratios of
perplexities, paired over seeds:

    breaks      ppl@L / ppl@N above 1.01 at every L > N, and above 1.10 at the longest
    flat        ppl@L / ppl@N below 1.01 at every L > N
    between     ppl@L / ppl@L of the other on the claimed side of 1
    not helped  ppl@L+bca / ppl@L above 1 / 1.01

A claim holds where the whole 95% interval (Student's t over the seeds, of the log ratio) lies on
the claimed side. An ordering held where all its claims did; it held on average where all means lie
there but an interval does not; otherwise it did not hold. Beside each ratio stands the paper's at the
same L/N, where it printed one.

Writes orderings.md and extrapolation.png (the shape of Table 2) into the sweep's folder.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.after_sweep import AfterSweep
from tasks.extrapolation.findings import FLAT
from tasks.extrapolation.picture import plot_sweep
from tasks.extrapolation.sweep import Sweep, read_sweep
from tasks.extrapolation.tables import perplexity_table, properties_table, resolution_table
from zoo.report.stats import Difference, difference

BROKEN = 1.10


@dataclass(frozen=True)
class Claim:
    """`ratio`, of logs, lies above or below `limit`; `published` is the paper's ratio."""

    text: str
    ratio: Difference | None
    limit: float
    above: bool
    published: float | None = None

    @property
    def verdict(self) -> str:
        """held, held on average, did not hold, or not measured."""
        if self.ratio is None or not math.isfinite(self.ratio.mean):
            return "not measured"
        margin = (self.ratio.mean - math.log(self.limit)) * (1 if self.above else -1)
        if margin <= 0:
            return "did not hold"
        return (
            "held"
            if self.ratio.half is not None and self.ratio.half < margin
            else "held on average"
        )


@dataclass
class Ordering:
    """One of the paper's orderings, with the claims that it consists of."""

    title: str
    claims: list[Claim] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The worst of its claims."""
        verdicts = {claim.verdict for claim in self.claims} or {"not measured"}
        order = ("not measured", "did not hold", "held on average", "held")
        return next(verdict for verdict in order if verdict in verdicts)


def orderings(sweep: Sweep) -> list[Ordering]:
    """The five, as far as the sweep has what they are about."""
    N = sweep.N

    def ratio(a: tuple[str, str], b: tuple[str, str]) -> Difference | None:
        return difference(_logs(sweep, *a), _logs(sweep, *b))

    def over_N(scheme: str, suffix: str, published: dict[int, float]) -> Iterator[tuple]:
        for length in sweep.beyond:
            text = f"{scheme} {length}{suffix} / {N}"
            found = ratio((scheme, f"{length}{suffix}"), (scheme, f"{N}"))
            yield text, found, published.get(length // N)

    def breaks(scheme: str, published: dict[int, float]) -> list[Claim]:
        claims = [Claim(t, r, FLAT, True, p) for t, r, p in over_N(scheme, "", published)]
        last = claims[-1]
        return [*claims[:-1], Claim(last.text, last.ratio, BROKEN, True, last.published)]

    def flat(scheme: str, published: dict[int, float]) -> list[Claim]:
        return [Claim(t, r, FLAT, False, p) for t, r, p in over_N(scheme, "+bca", published)]

    def against(
        a: str, b: str, limit: float, above: bool, published: dict[int, float]
    ) -> list[Claim]:
        """Scheme and suffix against scheme and suffix (`xpos+bca`), at each length beyond N."""
        claims = []
        for length in sweep.beyond:
            (one, _, mask), (other, _, base) = a.partition("+"), b.partition("+")
            sides = [(s, f"{length}{'+' * bool(m)}{m}") for s, m in ((one, mask), (other, base))]
            text = f"{a} / {b} at {length}"
            claims.append(Claim(text, ratio(*sides), limit, above, published.get(length // N)))
        return claims

    absolute = {2: 132.63 / 29.94, 4: 1283.79 / 29.94}
    if not sweep.beyond:
        raise ValueError(f"no length beyond the training length {N} was measured")
    return [
        Ordering(
            "absolute positions break beyond N",
            [*breaks("learned", absolute), *breaks("sinusoidal", absolute)],
        ),
        Ordering(
            "RoPE breaks without BCA and survives with it",
            [
                *breaks("rope", {2: 73.6 / 25.52, 4: 294.45 / 25.52}),
                *flat("rope", {2: 25.57 / 25.52, 4: 25.65 / 25.52}),
            ],
        ),
        Ordering(
            "xPos + BCA stays flat or improves", flat("xpos", {2: 21.6 / 23.31, 4: 20.73 / 23.31})
        ),
        Ordering(
            "xPos alone sits between xPos + BCA and RoPE alone",
            [
                *against("xpos", "xpos+bca", 1, True, {2: 22.56 / 21.6, 4: 28.43 / 20.73}),
                *against("xpos", "rope", 1, False, {2: 22.56 / 73.6, 4: 28.43 / 294.45}),
            ],
        ),
        Ordering(
            "ALiBi is not helped by BCA",
            against("alibi+bca", "alibi", 1 / FLAT, True, {2: 24.6 / 23.14, 4: 25.37 / 24.26}),
        ),
    ]


def _logs(sweep: Sweep, scheme: str, at: str) -> dict[str, float]:
    if scheme not in sweep.schemes:
        return {}
    values = sweep.schemes[scheme].values(f"test/ppl@{at}")
    return {seed: math.log(value) for seed, value in values.items()}


def to_markdown(sweep: Sweep, found: list[Ordering]) -> str:
    """The verdicts, every claim with its interval, and the tables behind them."""
    lines = [
        f"# Length extrapolation: trained at {sweep.N}, seeds: {sweep.seeds}",
        "",
        "| ordering | verdict |",
        "|---|---|",
        *(f"| {ordering.title} | **{ordering.verdict}** |" for ordering in found),
        "",
        *perplexity_table(sweep),
        *properties_table(sweep),
        *resolution_table(sweep),
        "## The claims",
        "",
        "Ratios of perplexities over paired seeds, with 95% intervals.",
        "",
    ]
    for ordering in found:
        lines += [f"### {ordering.title}: {ordering.verdict}", ""]
        lines += ["| ratio | measured | claimed | published | |", "|---|---:|---:|---:|---|"]
        lines += [f"| {_row(claim)} |" for claim in ordering.claims] + [""]
    return "\n".join(lines)


def _row(claim: Claim) -> str:
    side = f"{'above' if claim.above else 'below'} {claim.limit:.3g}"
    published = "" if claim.published is None else f"{claim.published:.3g}"
    return f"{claim.text} | {_interval(claim.ratio)} | {side} | {published} | {claim.verdict}"


def _interval(ratio: Difference | None) -> str:
    if ratio is None:
        return "—"
    if ratio.half is None:
        return f"{math.exp(ratio.mean):.3f}"
    low, high = math.exp(ratio.mean - ratio.half), math.exp(ratio.mean + ratio.half)
    return f"{math.exp(ratio.mean):.3f} [{low:.3f}, {high:.3f}]"


def judge(folder: Path) -> list[Ordering]:
    """Reads a sweep, writes orderings.md and extrapolation.png into it, and prints the verdicts.

    Raises ValueError in one line where the sweep has nothing to judge.
    """
    sweep = read_sweep(folder)
    found = orderings(sweep)
    written = folder / "orderings.md"
    written.write_text(to_markdown(sweep, found), encoding="utf-8")
    for ordering in found:
        print(f"{ordering.verdict:>16}  {ordering.title}")
    print(f"orderings: {written}")
    print(f"picture: {plot_sweep(sweep, folder / 'extrapolation.png')}")
    return found


class Orderings(AfterSweep):
    """Judges a sweep when its last job has ended."""

    name = "orderings"
    description = "Whether the LeX paper's orderings hold in a sweep of task=extrapolation."

    def judge(self, folder: Path) -> None:
        judge(folder)


main = Orderings.main


if __name__ == "__main__":
    sys.exit(main())
