"""The curriculum: stages that follow each other in one run, each with its own mixture of data sets.

    stage       data                                                   (Liu et al. 2023, section 3.1)
    single      SingleLine
    tutorial    Tutorial and the hard subset of SingleLine
    all         CodeNetMut, Tutorial and the hard subset, a third each

Every micro-batch is drawn from one set, by the stage's probabilities; all ranks draw the same. At the
start of a stage the optimiser is made anew and the learning rate's schedule begins again. What is drawn
is a pure function of (seed, number of the micro-batch), so that a resumed run goes on as if it had
never stopped.
"""

from dataclasses import dataclass

import numpy as np

from tasks.code_execution.formats import SETS
from tasks.data.order import mix


@dataclass(frozen=True)
class Stage:
    """mixture: set -> probability of a micro-batch. hard: SingleLine's hard subset alone."""

    name: str
    mixture: dict[str, float]
    share: float = 1.0
    hard: bool = False


class Curriculum:
    """Stages, each with its share of the run's steps.

    stages: dicts of `name`, `mixture` (set: weight), `share` (of the steps, relative to the others)
    and `hard`, as in conf/data/traces.yaml. One stage is training without a curriculum.
    """

    def __init__(self, *, stages: list):
        if not stages:
            raise ValueError("stages: give at least one")
        self.stages = [_stage(i, dict(stage)) for i, stage in enumerate(stages)]
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: two have the same name, {', '.join(names)}")

    @property
    def sets(self) -> list[str]:
        """Every set that is trained on, in the order of formats.SETS."""
        return [name for name in SETS if any(name in stage.mixture for stage in self.stages)]

    def starts(self, steps: int) -> list[int]:
        """The first step of each stage in a run of `steps`."""
        if steps < len(self.stages):
            raise ValueError(
                f"max_steps: {steps} steps are too few for {len(self.stages)} stages; give more"
            )
        shares = np.cumsum([0.0, *(stage.share for stage in self.stages)])
        starts = np.rint(shares[:-1] / shares[-1] * steps).astype(int)
        return np.maximum(starts, np.arange(len(starts))).tolist()

    def at(self, step: int, steps: int) -> int:
        """Which stage a step belongs to."""
        return int(np.searchsorted(self.starts(steps), step, side="right")) - 1

    def draws(self, micro: np.ndarray, *, seed: int, accumulate: int, steps: int) -> np.ndarray:
        """What the micro-batches of these numbers are drawn from: numbers of `streams`.

        accumulate: micro-batches of a step on one rank.
        """
        streams = self.streams()
        stage = np.searchsorted(self.starts(steps), micro // accumulate, side="right") - 1
        uniform = (mix(seed, 1, micro) >> np.uint64(11)).astype(np.float64) / 2**53
        found = np.zeros(len(micro), dtype=np.int64)
        for number, of in enumerate(self.stages):
            names = list(of.mixture)
            edges = np.cumsum([of.mixture[name] for name in names])
            chosen = np.searchsorted(edges[:-1] / edges[-1], uniform, side="right")
            ids = np.array([streams.index((name, of.hard and name == SETS[0])) for name in names])
            found = np.where(stage == number, ids[chosen], found)
        return found

    def streams(self) -> list[tuple[str, bool]]:
        """(set, whether its hard subset alone), each that some stage reads."""
        pairs = [(name, s.hard and name == SETS[0]) for s in self.stages for name in s.mixture]
        return list(dict.fromkeys(pairs))


def _stage(i: int, given: dict) -> Stage:
    where = f"stages[{i}]"
    unknown = set(given) - {"name", "mixture", "share", "hard"}
    if unknown or "mixture" not in given:
        raise ValueError(f"{where}: takes name, mixture, share and hard, got {', '.join(given)}")
    mixture = {str(name): float(weight) for name, weight in dict(given["mixture"]).items()}
    for name, weight in mixture.items():
        if name not in SETS:
            raise ValueError(f"{where}.mixture: {name} is none of {', '.join(SETS)}")
        if not weight > 0:
            raise ValueError(f"{where}.mixture.{name}: must be above 0, got {weight}")
    if not mixture:
        raise ValueError(f"{where}.mixture: is empty; give set: weight")
    share = float(given.get("share", 1.0))
    if not share > 0:
        raise ValueError(f"{where}.share: must be above 0, got {share}")
    return Stage(str(given.get("name", i + 1)), mixture, share, bool(given.get("hard", False)))
