"""Does in-context learning look like gradient descent?  python -m tasks.icl.verdicts SWEEP_FOLDER

Each claim of Dai et al. 2022 is a measure against a control, and holds where the whole 95% interval of
their difference, paired over seeds, lies above 0. The published controls are noise; those that the
critique asks for are the untrained network (Deutch et al. 2023), and other demonstrations, whose update
has the same form and another content. Writes icl.md and icl.png into the sweep's folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.after_sweep import AfterSweep
from tasks.icl.picture import plot_sweep
from zoo.report.runs import find_runs
from zoo.report.stats import Difference, difference, mean_interval
from zoo.report.variants import Variant, group


@dataclass(frozen=True)
class Claim:
    """`measure` is larger than `control`; each is a metric, or the first less the second."""

    text: str
    against: str
    measure: tuple[str, ...]
    control: tuple[str, ...]


def _claim(text: str, against: str, measure: str, control: str) -> Claim:
    return Claim(text, against, tuple(measure.split(" - ")), tuple(control.split(" - ")))


CLAIMS = [
    _claim("demonstrations help", "no demonstrations", "acc@icl", "acc@zsl"),
    _claim("fine-tuning on them helps", "no demonstrations", "acc@ft", "acc@zsl"),
    _claim("what fine-tuning mends, they mend (Rec2FTP)", "all that was wrong",
           "rec2ftp", "acc@icl_of_zsl_wrong"),
    _claim("updates are alike (SimAOU)", "random", "sim_aou", "sim_aou@random"),
    _claim("updates are alike (SimAOU)", "untrained", "sim_aou", "sim_aou@untrained"),
    _claim("updates are alike (SimAOU)", "untrained, same rate",
           "sim_aou", "sim_aou@untrained_same_lr"),
    _claim("updates are alike (SimAOU)", "other demonstrations", "sim_aou", "sim_aou@other"),
    _claim("raw updates are alike", "random", "sim_aou@raw", "sim_aou@random"),
    _claim("raw updates are alike", "untrained", "sim_aou@raw", "sim_aou@raw+untrained"),
    _claim("raw updates are alike", "untrained, same rate",
           "sim_aou@raw", "sim_aou@raw+untrained_same_lr"),
    _claim("raw updates are alike", "other demonstrations", "sim_aou@raw", "sim_aou@raw_other"),
    _claim("attention grows alike (SimAM)", "before fine-tuning", "sim_am", "sim_am@before"),
    _claim("attention grows alike (SimAM)", "growth of the untrained",
           "sim_am - sim_am@before", "sim_am@untrained - sim_am@before+untrained"),
    _claim("changes of attention are alike", "untrained", "sim_am@delta", "sim_am@delta+untrained"),
    _claim("demonstrations are ranked alike (Kendall)", "random", "kendall", "kendall@random"),
    _claim("demonstrations are ranked alike (Kendall)", "untrained", "kendall", "kendall@untrained"),
]  # fmt: skip


def values(variant: Variant, terms: tuple[str, ...]) -> dict[str, float]:
    """By seed: the metric, or the first less the second."""
    found = [variant.values(f"test/{term}") for term in terms]
    seeds = [seed for seed in found[0] if all(seed in other for other in found)]
    return {
        seed: found[0][seed] - sum(other[seed] for other in found[1:])
        for seed in seeds
        if all(other[seed] == other[seed] for other in found)
    }


def verdict(gap: Difference | None) -> str:
    """held, held on average, did not hold, or undefined."""
    if gap is None:
        return "undefined"
    if gap.mean <= 0:
        return "did not hold"
    return "held" if gap.half is not None and gap.half < gap.mean else "held on average"


def read_variants(folder: Path) -> list[Variant]:
    """The families of tasks in a sweep. Raises ValueError where no finished run is of task=icl."""
    runs = [run for run in find_runs([folder]) if run.done and "test/acc@icl" in run.results]
    if not runs:
        raise ValueError(f"{folder}: no finished run of task=icl (none has test/acc@icl)")
    return group(runs)


def family(variant: Variant) -> str:
    """What the tasks of a variant are."""
    maps = variant.settings.get("data.maps")
    if maps is None:
        return variant.label
    return "learnt: any map" if maps == "null" else f"recognised: one of {maps} maps"


def to_markdown(variants: list[Variant]) -> str:
    """Every claim of every family with its interval, and what was measured."""
    lines = ["# Is in-context learning gradient descent?", ""]
    for variant in variants:
        seeds = len(variant.one_per_seed())
        lines += [f"## {family(variant)} (seeds: {seeds})", ""]
        lines += ["| claim | against | measured | control | difference [95%] | |"]
        lines += ["|---|---|---:|---:|---:|---|"]
        for claim in CLAIMS:
            measured, control = values(variant, claim.measure), values(variant, claim.control)
            gap = difference(measured, control)
            cells = [claim.text, claim.against, _mean(measured), _mean(control), _gap(gap)]
            lines.append(f"| {' | '.join(cells)} | **{verdict(gap)}** |")
        counts = variant.values("icl/rec2ftp_count")
        rates, own = (variant.values(f"icl/finetuning_lr{net}") for net in ("", "@untrained"))
        lines += [
            "",
            f"Rec2FTP is of {_mean(counts)} queries a seed. Learning rates of fine-tuning, chosen on "
            f"other episodes: {_list(rates)}; untrained: {_list(own)}.",
            "",
        ]
    return "\n".join(lines)


def _mean(by_seed: dict[str, float]) -> str:
    return format(mean_interval([*by_seed.values()]).mean, ".3g") if by_seed else "—"


def _list(by_seed: dict[str, float]) -> str:
    return ", ".join(f"{value:g}" for value in by_seed.values()) or "—"


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return "—"
    if gap.half is None:
        return f"{gap.mean:+.3g}"
    return f"{gap.mean:+.3g} [{gap.mean - gap.half:+.3g}, {gap.mean + gap.half:+.3g}]"


def judge(folder: Path) -> Path:
    """Reads a sweep, writes icl.md and icl.png into it and prints the verdicts."""
    variants = read_variants(folder)
    written = folder / "icl.md"
    written.write_text(to_markdown(variants), encoding="utf-8")
    for variant in variants:
        print(family(variant))
        for claim in CLAIMS:
            gap = difference(values(variant, claim.measure), values(variant, claim.control))
            print(f"{verdict(gap):>16}  {claim.text}, against {claim.against}: {_gap(gap)}")
    print(f"verdicts: {written}")
    titled = {family(variant): variant for variant in variants}
    print(f"picture: {plot_sweep(titled, folder / 'icl.png')}")
    return written


class Verdicts(AfterSweep):
    """Judges a sweep when its last job has ended."""

    name = "verdicts"
    description = "What held of in-context learning as gradient descent in a sweep of task=icl."

    def judge(self, folder: Path) -> None:
        judge(folder)


main = Verdicts.main


if __name__ == "__main__":
    sys.exit(main())
