"""Runs that differ in nothing but their seed are one variant: grouping, labels, what differs."""

import json
from collections import defaultdict
from dataclasses import dataclass

from zoo.report.runs import Run

# Where a run writes and what it is called do not change what it computes.
IGNORED_ROOTS = {"seed", "name", "paths", "logger", "hydra", "ckpt", "sweep", "tags", "_seed"}
MISSING = "—"


@dataclass
class Variant:
    """One row of the comparison. `settings` is what identifies it: flat key → readable value."""

    label: str
    runs: list[Run]
    settings: dict[str, str]
    choices: dict[str, str]

    @property
    def finished(self) -> list[Run]:
        """The runs whose results count."""
        return [run for run in self.runs if run.done]

    def values(self, metric: str) -> dict[str, float]:
        """Value by seed over the finished runs. A seed that was run twice counts once, with its
        mean: repeats of one seed are not independent."""
        seen = defaultdict(list)
        for run in self.finished:
            if metric in run.results:
                seen[seed_key(run)].append(run.results[metric])
        return {seed: sum(values) / len(values) for seed, values in seen.items()}

    def one_per_seed(self) -> list[Run]:
        """The finished runs, one a seed; without any, those that left curves or series."""
        usable = self.finished or [run for run in self.runs if run.curves or run.series]
        return list({seed_key(run): run for run in reversed(usable)}.values())[::-1]


def seed_key(run: Run) -> str:
    """What pairs runs: the seed, or the run itself where no seed is known."""
    return run.seed or f"run {run.name}"


def group(runs: list[Run]) -> list[Variant]:
    """Variants in the order of their first run, labelled."""
    seeds = _seed_keys(runs)
    settings = [_settings(run, seeds) for run in runs]
    adopted = {
        _overrides(run): key for run, key in zip(runs, settings) if run.config and run.overrides
    }
    groups: dict[tuple, Variant] = {}
    for run, key in zip(runs, settings):
        if not run.config:  # died before it wrote one: its overrides tell which variant it was
            key = adopted.get(_overrides(run), key)
        choices = _choices(run)
        variant = groups.setdefault(tuple(sorted(key.items())), Variant("", [], key, choices))
        variant.runs.append(run)
        variant.choices = variant.choices or choices
    variants = list(groups.values())
    for variant, label in zip(variants, labels(variants)):
        variant.label = label
    return variants


def labels(variants: list[Variant]) -> list[str]:
    """The shortest readable names that tell the variants apart.

    Config-group choices come first and appear as their value alone (`xpos`); then the settings that
    split the most, as `key=value`, those given on the command line before the others.
    """
    if len(variants) == 1:
        only = variants[0]
        return [only.choices.get("model") or f"run {only.runs[0].name}"]
    parts: list[list[str]] = [[] for _ in variants]
    # The model first: it is what most comparisons vary and what a reader looks for.
    for name in sorted(differing([v.choices for v in variants]), key=lambda n: n != "model"):
        values = [v.choices.get(name, "") for v in variants]
        if _splits(parts, values) > _splits(parts, None):
            for part, value in zip(parts, values):
                part += [value] if value else []
    given = {
        item.lstrip("+~").split("=")[0]
        for v in variants
        for run in v.runs
        for item in run.overrides
    }
    keys = differing([v.settings for v in variants])
    while keys and _splits(parts, None) < len(variants):
        gain = {
            key: _splits(parts, [v.settings.get(key, MISSING) for v in variants]) for key in keys
        }
        best = max(keys, key=lambda k: (gain[k], k in given, -k.count("."), -len(k)))
        if gain[best] == _splits(parts, None):
            break
        for part, variant in zip(parts, variants):
            part.append(_short(best, variant.settings.get(best, MISSING)))
        keys.remove(best)
    names = [
        " · ".join(part) or f"run {variant.runs[0].name}" for part, variant in zip(parts, variants)
    ]
    repeated = {name for name in names if names.count(name) > 1}
    return [
        f"{name} ({variant.runs[0].name})" if name in repeated else name
        for name, variant in zip(names, variants)
    ]


def differing(mappings: list[dict[str, str]]) -> list[str]:
    """The keys, in order of appearance, whose value is not the same in all mappings."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [key for key in keys if len({mapping.get(key, MISSING) for mapping in mappings}) > 1]


def readable(value: object) -> str:
    """A config value as text: strings bare, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def _short(key: str, value: str) -> str:
    """`optim.lr`, `0.1` → `lr=0.1`; a class path by its last name alone."""
    name = key.rpartition(".")[2]
    return value.rpartition(".")[2] if name == "_target_" else f"{name}={value}"


def _splits(parts: list[list[str]], values: list[str] | None) -> int:
    """How many variants could be told apart with one more part."""
    return len({(*part, values[i] if values else "") for i, part in enumerate(parts)})


def _settings(run: Run, seeds: set[str]) -> dict[str, str]:
    if not run.config:
        given = [item for item in run.overrides if not item.startswith("seed=")]
        if given or run.choices:
            parts = [item.partition("=") for item in given]
            return {key: value for key, _, value in parts} | _choices(run)
        return {"run": run.name}
    own = {str(run.folder)} | {
        str(value)
        for key, value in run.config.items()
        if key.startswith("paths.") and str(value).rstrip("/").endswith("/" + run.folder.name)
    }
    settings = {}
    for key, value in run.config.items():
        if key.split(".")[0] in IGNORED_ROOTS or key in seeds:
            continue
        text = readable(value)
        for place in own:
            text = text.replace(place, "<run>")
        settings[key] = text
    return settings


def _seed_keys(runs: list[Run]) -> set[str]:
    """Settings such as `data.seed: ${seed}`: named for a seed, and equal to the run's in each run."""
    configs = [run.config for run in runs if run.config]
    named = {key for config in configs for key in config if key.endswith("seed")}
    return {
        key
        for key in named
        if all(config.get(key, config.get("seed")) == config.get("seed") for config in configs)
    }


def _overrides(run: Run) -> tuple[str, ...]:
    return tuple(sorted(item for item in run.overrides if not item.startswith("seed=")))


def _choices(run: Run) -> dict[str, str]:
    return {
        name: value
        for name, value in run.choices.items()
        if name.split("/")[0] not in IGNORED_ROOTS
    }
