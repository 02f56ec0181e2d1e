"""The runs of a sweep as vectors: any linear form of them, evaluated on any period, without a file.

    theta(w) = theta_base + sum_i w_i tau_i,    tau_i = theta_i - theta_base

The working model's parameters are views of one flat buffer, into which a form is written in place. Every
evaluation is kept in `evaluations.jsonl` beside the runs, keyed by the content of the buffer, the tokens
read and the metric: nothing is measured twice, whoever asks, and an interrupted analysis goes on.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.packing import PackedDataset
from tasks.data.stage import digest
from tasks.errors import UserError
from tasks.run_folder import read_json
from tasks.time_vectors.cosine import group_of
from tasks.time_vectors.cut import ALL, BASE, ONLINE, SHUFFLED
from tasks.time_vectors.data import DatedData
from tasks.time_vectors.task import batch_loss
from zoo.load import build, load_run, read_config

ROWS = 64  # windows read at once


class Cache:
    """Numbers by key, in a file that several processes may add lines to."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, float] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["value"]
                except (ValueError, KeyError):
                    continue  # a line that a killed process left half-written

    def add(self, key: str, value: float, **about: Any) -> None:
        """Appends one line, at one stroke."""
        self.known[key] = value
        line = json.dumps({"key": key, "value": value, **about}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


class Study:
    """The runs of one seed: the base, one a period, and perhaps one of all.

    labels: of the periods that were trained, in order; shuffled and online: of those controls and
    those checkpoints. Raises UserError where the base is missing or fewer than `least` periods are
    there.
    """

    def __init__(self, runs: Mapping[str, Path], cache: Path, *, least: int = 2):
        if BASE not in runs:
            raise UserError(f"{cache.parent}: has no finished run with data.period=base")
        self.runs = dict(runs)
        self.cache = Cache(cache)
        loaded = load_run(runs[BASE], checkpoint="last")
        self.model = loaded.model
        # The data are those of the tuned runs, which may write documents otherwise than the base's.
        tuned = [path for label, path in runs.items() if label not in (BASE, ALL)]
        self.config = read_config((tuned or [runs[BASE]])[0])
        self.seed = self.config["seed"]
        self.data: DatedData = build(self.config["data"], key="data")
        self.data.prepare()
        self.labels = [label for label in self.data.periods if label in runs]
        if len(self.labels) < least:
            raise UserError(f"{cache.parent}: needs runs of at least {least} period(s)")
        self.shuffled = sorted(x for x in runs if x.startswith(SHUFFLED))
        self.online = [ONLINE + x for x in self.data.periods if ONLINE + x in runs]
        self._flatten()
        self.base = self.flat.clone()
        self.theta = lru_cache(maxsize=64)(self._theta)

    def _flatten(self) -> None:
        """One buffer under all parameters, each named once; `places` says where each lies."""
        parameters = dict(self.model.named_parameters())
        self.flat = torch.empty(sum(p.numel() for p in parameters.values()))
        self.places: dict[str, slice] = {}
        start = 0
        for name, parameter in parameters.items():
            stop = start + parameter.numel()
            self.places[name] = slice(start, stop)
            self.flat[start:stop] = parameter.detach().flatten()
            parameter.data = self.flat[start:stop].view_as(parameter)
            start = stop

    def _theta(self, label: str) -> Tensor:
        """The weights of a run."""
        model = load_run(self.runs[label], checkpoint="last").model
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def vector(self, label: str) -> Tensor:
        """The time vector of a run."""
        return self.theta(label) - self.base

    def set(self, weights: Mapping[str, float]) -> None:
        """Puts base + sum of weights * vectors into the working model.

        One vector with weight 1 is that model, bit for bit.
        """
        if len(weights) == 1 and next(iter(weights.values())) == 1:
            self.flat.copy_(self.theta(next(iter(weights))))
            return
        self.flat.copy_(self.base)
        for label, weight in weights.items():
            if weight:
                self.flat.add_(self.vector(label), alpha=weight)

    def loss(self, period: str, split: str = "test") -> float:
        """Mean loss of the working model on a period, in nats per token predicted."""
        dataset = self.data.of_period(period, split)
        return self.measure(period, split, "loss", lambda: mean_loss(self.model, dataset))

    def measure(self, period: str, split: str, metric: str, compute: Callable[[], float]) -> float:
        """A number about the working model and a period, computed unless it is known."""
        key = self._key(self.data.of_period(period, split), metric)
        if key not in self.cache.known:
            about = {"period": period, "split": split, "metric": metric, "seed": self.seed}
            self.cache.add(key, compute(), **about)
        return self.cache.known[key]

    def losses(self, weights: Mapping[str, float], split: str = "test") -> np.ndarray:
        """The losses of a linear form on every period."""
        self.set(weights)
        return np.array([self.loss(period, split) for period in self.labels])

    def _key(self, dataset: PackedDataset, metric: str) -> str:
        content = hashlib.blake2b(self.flat.numpy().tobytes(), digest_size=16).hexdigest()
        return digest(
            {
                "weights": content,
                "model": _architecture(self.config["model"]),
                "tokens": f"{dataset.path.parent.name}/{dataset.path.name}",
                "limit": dataset.max_tokens,
                "context": dataset.context_length,
                "cross": dataset.cross_documents,
                "metric": metric,
            }
        )

    def groups(self) -> dict[str, list[slice]]:
        """Where the parameters of each kind lie."""
        found: dict[str, list[slice]] = {}
        for name, place in self.places.items():
            found.setdefault(group_of(name), []).append(place)
        return found

    def cosines(self, group: str = "all", of: list[str] | None = None) -> np.ndarray:
        """Cosines of the time vectors (n, n), in float64; NaN where a group was left untouched."""
        places = [slice(None)] if group == "all" else self.groups()[group]
        labels = self.labels if of is None else of
        X = torch.stack([torch.cat([self.vector(x)[p] for p in places]) for x in labels]).double()
        gram = (X @ X.T).numpy()
        norms = np.sqrt(np.diag(gram))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = gram / np.outer(norms, norms)
        np.fill_diagonal(cosines, np.where(norms > 0, 1.0, np.nan))
        return cosines


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=str, sort_keys=True))


@torch.no_grad()
def mean_loss(model: torch.nn.Module, dataset: PackedDataset) -> float:
    """Mean loss over a dataset's targets, in nats, each target once, summed in float64."""
    nats, count = 0.0, 0
    for first in range(0, len(dataset), ROWS):
        batch = dataset.batch(np.arange(first, min(first + ROWS, len(dataset))))
        _, losses_BT = batch_loss(model, batch)
        nats += float(losses_BT.double().sum())
        count += int((batch["targets_BT"] != -100).sum())
    return nats / count


def find_studies(folder: Path, *, base: Path | None = None) -> list[Study]:
    """The studies of a sweep's folder, one a seed. Raises UserError where there is none.

    base: another sweep, or a run, from which the runs were tuned; None is what their task.base says,
    where the sweep has no base model of its own. One period is enough with a base from elsewhere.
    """
    seeds = _runs(folder)
    if not seeds:
        raise UserError(f"{folder}: has no finished run of task=time_vectors")
    cache, least = folder / "evaluations.jsonl", 2
    base = base or base_sweep(folder)
    if base is not None:
        least = 1
        if (base / "config.yaml").is_file():
            seeds = {seed: {**runs, BASE: base} for seed, runs in seeds.items()}
        else:
            bases = _runs(base)
            seeds = {
                seed: {**runs, BASE: bases[seed][BASE]}
                for seed, runs in seeds.items()
                if BASE in bases.get(seed, {})
            }
        if not seeds:
            raise UserError(f"{base}: has no finished run with data.period=base and these seeds")
    return [Study(seeds[seed], cache, least=least) for seed in sorted(seeds)]


def base_sweep(folder: Path) -> Path | None:
    """The other sweep or run that a sweep's runs were tuned from; None for one with its own base."""
    seeds = _runs(folder)
    if any(BASE in runs for runs in seeds.values()):
        return None
    for runs in seeds.values():
        for run in runs.values():
            base = read_config(run)["task"].get("base")
            return None if base is None else Path(base)
    return None


def _runs(folder: Path) -> dict[int, dict[str, Path]]:
    """Finished runs by seed and period."""
    seeds: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/config.yaml")):
        results = read_json(path.parent / "results.json")
        if "period" in results:
            seeds.setdefault(results["seed"], {})[results["period"]] = path.parent
    return seeds


__all__ = ["ALL", "BASE", "Cache", "Study", "find_studies", "mean_loss"]
