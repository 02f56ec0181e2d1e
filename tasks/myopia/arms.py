"""The runs of a comparison, by arm, and the check that they differ in nothing but the arm (§4.5).

An arm is what stands in `model.mixer` (and the frozen model of `task.frozen`). All else must agree: data
and their order (the seed), steps, batch, optimiser, dropout, precision. The learning rate may be an
axis, tried in every arm alike: each arm then counts at the rate with its own lowest validation loss.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.myopia.losses import FILE
from zoo.report.runs import Run, find_runs, flatten

ARM = ("model.mixer", "task.frozen")  # what makes an arm
RATE = "optim.lr"
# Where a run writes and what it is called; `data.seed` follows `seed`.
_APART = (
    *("name", "paths", "logger", "callbacks", "hydra", "ckpt", "sweep", "data.cache_dir"),
    *("task.angle_every", "task.angle_sequences", "trainer.enable_progress_bar"),
)
_SEED = ("seed", "data.seed")
ORDER = ("local", "vanilla", "hidden", "kv", "zero")  # as the losses are expected


@dataclass(frozen=True)
class Arm:
    """One arm at its best learning rate: its runs by seed.

    tried: mean validation loss by rate, where there are several.
    """

    name: str
    runs: dict[str, Run]
    rate: object
    tried: dict[object, float]

    def mean(self, metric: str) -> float | None:
        """Mean over the seeds; None where it was not measured."""
        values = [run.results[metric] for run in self.runs.values() if metric in run.results]
        return sum(values) / len(values) if values else None


def arm_of(config: Mapping[str, Any]) -> str:
    """The arm that a run's config describes: vanilla, hidden, kv, local (frozen past) or zero."""
    flat = config if "model.mixer._target_" in config else flatten(dict(config))
    if not str(flat.get("model.mixer._target_", "")).endswith(".MyopicAttention"):
        return "vanilla"
    variant = str(flat.get("model.mixer.variant", "hidden"))
    beta = float(flat.get("model.mixer.beta") or 0.0)  # type: ignore[arg-type]
    if beta:
        return "vanilla" if beta == 1 else f"{variant}, beta {beta:g}"
    return "local" if variant == "frozen" else variant


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, but: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings in which two runs differ that have no business to, `but` those under these keys."""
    free = (*ARM, *_APART, *but)
    flat = [c if "model.mixer._target_" in c else flatten(dict(c)) for c in (a, b)]
    keys = dict.fromkeys(key for config in flat for key in config)
    return {
        key: (flat[0].get(key), flat[1].get(key))
        for key in keys
        if flat[0].get(key) != flat[1].get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def describe(found: Mapping[str, tuple[Any, Any]]) -> str:
    """`key (here, there)` of the first few differences."""
    parts = [f"{key} ({a} against {b})" for key, (a, b) in [*found.items()][:3]]
    return ", ".join(parts)


def read_arms(folders: list[Path], *, by: Collection[str] = ()) -> dict[str, dict[str, Arm]]:
    """Every finished run below the folders as {condition: {arm: Arm}}, arms in the order expected.

    by: keys whose values are conditions to compare within, such as data.padding (keys that follow
    from the first belong here too); without any the one condition is "".
    Raises UserError, in one line, where arms differ in anything else, or where seeds or learning
    rates were not the same for all.
    """
    where = ", ".join(map(str, folders))
    runs = [run for run in find_runs(folders) if run.done and (run.folder / FILE).is_file()]
    if not runs:
        raise UserError(f"{where}: no finished run of a myopia task (none has {FILE})")
    for run in runs[1:]:
        found = differences(runs[0].config, run.config, but=(*_SEED, RATE, *by))
        if found:
            raise UserError(
                f"{run.folder} and {runs[0].folder} are not two arms of one comparison: they differ in "
                f"{describe({k: (b, a) for k, (a, b) in found.items()})}; train both alike"
            )
    conditions: dict[str, list[Run]] = {}
    for run in runs:
        condition = ", ".join(f"{k}={run.config.get(k)}" for k in [*by][:1])
        conditions.setdefault(condition, []).append(run)
    return {name: _arms(members, where) for name, members in conditions.items()}


def _arms(runs: list[Run], where: str) -> dict[str, Arm]:
    grid: dict[str, dict[object, dict[str, Run]]] = {}
    for run in runs:
        rates = grid.setdefault(arm_of(run.config), {})
        seeds = rates.setdefault(run.config.get(RATE), {})
        if run.seed in seeds:
            raise UserError(
                f"{where}: {run.folder} and {seeds[run.seed].folder} are the same arm, seed and "
                "learning rate; compare one of them"
            )
        seeds[run.seed] = run
    cells = {
        arm: {(rate, s) for rate, runs in rates.items() for s in runs}
        for arm, rates in grid.items()
    }
    fullest = max(cells, key=lambda arm: len(cells[arm]))
    for arm, done in cells.items():
        missing = sorted(cells[fullest] - done, key=str)
        if missing:
            rate, seed = missing[0]
            raise UserError(
                f"{where}: the arms are not matched: {fullest} has a run with optim.lr={rate} "
                f"seed={seed} and {arm} has none; give every arm the same"
            )
    names = sorted(grid, key=lambda name: ORDER.index(name) if name in ORDER else 2.5)
    return {name: _best(name, grid[name]) for name in names}


def _best(name: str, rates: dict[object, dict[str, Run]]) -> Arm:
    if len(rates) == 1:
        ((rate, runs),) = rates.items()
        return Arm(name, runs, rate, {})
    for run in (run for runs in rates.values() for run in runs.values()):
        if "val/loss" not in run.results:
            raise UserError(
                f"{run.folder}: has no val/loss, by which the learning rate is chosen; "
                "train with validate_every"
            )
    tried = {
        rate: sum(run.results["val/loss"] for run in runs.values()) / len(runs)
        for rate, runs in rates.items()
    }
    rate = min(tried, key=lambda rate: tried[rate])
    return Arm(name, rates[rate], rate, tried)
