"""Does momentum help, at which eta, and beyond seed noise?  python -m tasks.momentum.compare SWEEP_FOLDER

Of a sweep over `arm` and `seed`, against the arm `plain` (eta 0), for each measure:

    difference      mean over seeds of arm - plain, both trained on the same batches from the same
                    weights, with its 95% interval (Student's t): losses in nats per token, log of the
                    perplexity; accuracies in points
    seed noise      standard deviation of `plain` over seeds: what another seed alone changes

A gain is distinguishable where the interval lies on the better side of 0. Writes momentum.md.
"""

import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.after_sweep import AfterSweep
from zoo.report.runs import find_runs
from zoo.report.stats import Difference, difference, mean_interval
from zoo.report.variants import Variant, group

PLAIN = "plain"
Values = Mapping[str, float]


def read_arms(folder: Path) -> dict[str, Variant]:
    """The arms of a sweep by name. Raises ValueError in one line where there is nothing to compare."""
    runs = [run for run in find_runs([folder]) if run.done and "arm" in run.config]
    arms: dict[str, Variant] = {}
    for variant in group(runs):
        name = str(variant.runs[0].config["arm"])
        if name in arms:
            raise ValueError(f"{folder}: arm={name} was trained in more than one setting")
        arms[name] = variant
    if PLAIN not in arms or len(arms) < 2:
        raise ValueError(f"{folder}: needs finished runs of arm={PLAIN} and of another arm")
    return arms


def measures(arms: Mapping[str, Variant]) -> dict[str, tuple[str, bool]]:
    """Title -> metric, and whether more is better; those that every arm has."""
    shared = set.intersection(*({*run.results} for arm in arms.values() for run in arm.finished))
    lengths = sorted(int(m.partition("@")[2]) for m in shared if m.startswith("test/ppl@"))
    found = {f"perplexity at {n}": (f"test/ppl@{n}", False) for n in lengths}
    sets = sorted(m for m in shared if m.startswith("test/acc@"))
    return found | {f"accuracy, {m.partition('@')[2]} (%)": (m, True) for m in sets}


def change(arm: Values, plain: Values, *, better_is_more: bool) -> Difference | None:
    """arm - plain, paired over seeds: of perplexities the difference of losses in nats."""
    if better_is_more:
        return difference(arm, plain)
    return difference(*({s: math.log(v) for s, v in x.items()} for x in (arm, plain)))


def verdict(gap: Difference | None, *, better_is_more: bool) -> str:
    """better, worse, or not distinguishable from seed noise."""
    if gap is None or gap.half is None:
        return "one seed"
    if not gap.excludes_zero:
        return "not distinguishable"
    return "better" if (gap.mean > 0) == better_is_more else "worse"


def to_markdown(arms: Mapping[str, Variant]) -> str:
    """A table of values, and for each measure one of differences."""
    plain = arms[PLAIN]
    wanted = measures(arms)
    lines = [f"# Momentum against plain attention, seeds: {len(plain.one_per_seed())}", ""]
    lines += [f"| arm | parameters | {' | '.join(wanted)} |", f"|---|---:|{'---:|' * len(wanted)}"]
    for name, arm in arms.items():
        cells = [_mean(arm.values(metric)) for metric, _ in wanted.values()]
        size = mean_interval([*arm.values("params").values()]).mean
        lines.append(f"| {name} | {size:,.0f} | {' | '.join(cells)} |")
    for title, (metric, more) in wanted.items():
        lines += ["", f"## {title}", ""]
        unit = "points" if more else "nats"
        lines.append(f"Seed noise of plain: {_noise(plain.values(metric), more)} {unit}.")
        lines += ["", f"| arm | difference ({unit}) [95%] | |", "|---|---:|---|"]
        for name, arm in arms.items():
            if name != PLAIN:
                gap = change(arm.values(metric), plain.values(metric), better_is_more=more)
                said = verdict(gap, better_is_more=more)
                lines.append(f"| {name} | {_interval(gap)} | **{said}** |")
    return "\n".join([*lines, ""])


def _noise(values: Values, better_is_more: bool) -> str:
    if len(values) < 2:
        return "unknown (one seed)"
    each = [v if better_is_more else math.log(v) for v in values.values()]
    return f"{statistics.stdev(each):.3g}"


def _mean(values: Values) -> str:
    of = mean_interval([*values.values()])
    return f"{of.mean:.4g}" if of.half is None else f"{of.mean:.4g} ± {of.half:.2g}"


def _interval(gap: Difference | None) -> str:
    if gap is None:
        return "—"
    if gap.half is None:
        return f"{gap.mean:+.4f}"
    return f"{gap.mean:+.4f} [{gap.mean - gap.half:+.4f}, {gap.mean + gap.half:+.4f}]"


def judge(folder: Path) -> Path:
    """Reads a sweep, writes momentum.md into it and prints it."""
    written = folder / "momentum.md"
    written.write_text(to_markdown(read_arms(folder)), encoding="utf-8")
    print(written.read_text(encoding="utf-8"))
    print(f"comparison: {written}")
    return written


class Compare(AfterSweep):
    """Compares the arms when the last job of a sweep has ended."""

    name = "momentum"
    description = "Momentum against plain attention in a sweep over arm and seed."

    def judge(self, folder: Path) -> None:
        judge(folder)


main = Compare.main


if __name__ == "__main__":
    sys.exit(main())
