"""The runs of a sweep of `task=extrapolation`, by scheme and seed."""

from dataclasses import dataclass
from pathlib import Path

from zoo.report.metrics import parse, split_condition
from zoo.report.runs import find_runs
from zoo.report.stats import Estimate, mean_interval
from zoo.report.variants import Variant, group


@dataclass(frozen=True)
class Scheme:
    """One row of the comparison: the variants that a sweep trained, under the name of their model."""

    name: str
    variant: Variant

    def values(self, metric: str) -> dict[str, float]:
        """Value by seed over the finished runs; {} where it was not measured."""
        return self.variant.values(metric)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and 95% interval over the seeds."""
        values = [*self.values(metric).values()]
        return mean_interval(values) if values else None


@dataclass(frozen=True)
class Sweep:
    """All schemes of a sweep, trained at N and read at `lengths`."""

    N: int
    lengths: list[int]
    schemes: dict[str, Scheme]

    @property
    def beyond(self) -> list[int]:
        """The lengths that training never reached."""
        return [length for length in self.lengths if length > self.N]

    @property
    def seeds(self) -> int:
        """Of the scheme that has the fewest."""
        return min(len(scheme.variant.one_per_seed()) for scheme in self.schemes.values())


def read_sweep(folder: Path) -> Sweep:
    """Reads every finished run below `folder`.

    Raises ValueError, in one line, where there is none of the extrapolation task, where runs were
    trained at different lengths, or where one model appears in several settings.
    """
    runs = [run for run in find_runs([folder]) if run.done and _lengths(run.results)]
    if not runs:
        raise ValueError(f"{folder}: no finished run of task=extrapolation (none has test/ppl@…)")
    trained = {run.config.get("model.context_length") for run in runs}
    if len(trained) > 1:
        raise ValueError(f"{folder}: runs trained at different lengths {sorted(map(str, trained))}")
    schemes: dict[str, Scheme] = {}
    for variant in group(runs):
        name = variant.choices.get("model", variant.label)
        if name in schemes:
            raise ValueError(
                f"{folder}: {name} was trained in more than one setting; compare one at a time"
            )
        schemes[name] = Scheme(name, variant)
    lengths = sorted({length for run in runs for length in _lengths(run.results)})
    return Sweep(int(str(trained.pop())), lengths, schemes)


def _lengths(results: dict[str, float]) -> set[int]:
    metrics = [parse(name) for name in results if name.startswith("test/ppl@")]
    numbers = [split_condition(metric.condition) for metric in metrics]
    return {int(number) for number, rest in numbers if number is not None and not rest}
