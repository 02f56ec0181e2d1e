"""Every analysis of a sweep of period models:  python -m tasks.time_vectors.analyse SWEEP_FOLDER

Writes into the sweep's folder
    time_vectors.json   every number, a seed at a time
    time_vectors.png    the two maps and the interpolation
    time_vectors.md     what was claimed and what was found, mean and 95% interval over the seeds
    time_vectors.html   the same with all figures, one file
and keeps what it evaluated in evaluations.jsonl (see `study`). `--shard 2/4` only evaluates the second
quarter of the grid's rows, so that several processes or machines can share a large sweep's work.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tasks.errors import UserError
from tasks.run_folder import say, write_json
from tasks.time_vectors import analyses, labelled, options
from tasks.time_vectors.analysis import (
    best_alphas,
    correlation_p_value,
    degradation_slope,
    misalignment,
    misalignment_correlation,
    seasonality,
    spearman,
    temporal_degradation,
)
from tasks.time_vectors.cut import ONLINE, SHUFFLED
from tasks.time_vectors.downstream import analogy
from tasks.time_vectors.labelled import DOCUMENTS, Judge
from tasks.time_vectors.maps import planes
from tasks.time_vectors.online import online
from tasks.time_vectors.report import write_report
from tasks.time_vectors.study import Study, base_sweep, find_studies

YEARS_OF = {"month": 12, "quarter": 4}


def analyse(
    study: Study, *, quick: bool = False, lm: Study | None = None, documents: int = DOCUMENTS
) -> dict[str, Any]:
    """All numbers of one seed. quick: the grid, cosines, interpolation and what the runs were made for
    alone. lm: the language models that a labelled task's runs were tuned from. documents: of each
    period's test that such a task is scored on, at most."""
    grid = analyses.grid(study)
    scores, cosines = grid["scores"], study.cosines()
    words = analyses.overlap(study)
    found: dict[str, Any] = {
        "seed": study.seed,
        "labels": study.labels,
        "tokens_per_period": study.data.equal_tokens,
        "grid": grid,
        "misalignment": misalignment(scores),
        "cosines": {"all": cosines},
        "norms": [float(study.vector(label).norm()) for label in study.labels],
        "overlap": words,
        "correlation": {
            name: {
                "with diagonal": misalignment_correlation(scores, matrix),
                "without": misalignment_correlation(scores, matrix, include_diagonal=False),
                "p without": correlation_p_value(scores, matrix, include_diagonal=False),
            }
            for name, matrix in (("cosine", cosines), ("vocabulary overlap", words))
        },
        "slope": degradation_slope(scores),
        "temporal degradation": temporal_degradation(scores, higher_is_better=False)[0],
        "map": _map(study),
    }
    year = YEARS_OF.get(study.data.by, 0) // study.data.every
    if year >= 2 and len(study.labels) >= 2 * year:
        found["seasonality"] = vars(seasonality(scores, year=year))
    found["interpolation"] = _interpolation(study)
    if study.data.by == "month" and (years := analyses.calendar(study)):
        found["calendar"] = years
    if len(study.shuffled) > 1:
        found["floor"] = analyses.floor(study)
    if len(study.online) > 1:
        found["online"] = online(study)
    if study.data.template is not None:
        found["task"] = _task(study, documents)
    if lm is not None:
        found["analogy"] = analogy(lm, study, limit=documents)
    if quick:
        return found
    found["cosines"] |= {group: study.cosines(group) for group in study.groups()}
    found["soups"] = analyses.soups(study)
    found["swaps"] = analyses.swaps(study)
    if len(study.labels) >= 4:
        found["extrapolation"] = analyses.extrapolation(study)
    found["routing"] = options.routing(study)
    if hasattr(study.model, "hidden"):
        found["probe"] = options.probe(study)
    return found


def _interpolation(study: Study) -> dict[str, Any]:
    found = analyses.interpolation(study)
    alphas, losses = found["alphas"], found["losses"]
    best = best_alphas(alphas, losses)
    middle = len(study.labels) // 2
    first, last = study.labels[0], study.labels[-1]
    validation = []
    for alpha in alphas:
        study.set({first: float(alpha), last: float(1 - alpha)})
        validation.append(study.loss(study.labels[middle], "val"))
    chosen = int(np.argmin(validation))
    ends = min(losses[0, middle], losses[-1, middle])
    return found | {
        "best": best,
        "spearman": spearman(best, np.arange(len(best))),
        "middle": study.labels[middle],
        "middle alpha": float(alphas[chosen]),
        "middle gain": float(ends - losses[chosen, middle]),
    }


def _task(study: Study, documents: int) -> list[dict[str, Any]]:
    """The matrices of the published scores."""
    judge = Judge(study, limit=documents)
    found = [labelled.matrix(study, judge)]
    if judge.labels is not None and study.data.examples:  # T5 writes a batch at a time
        found.append(labelled.matrix(study, judge, written=True))
    return found


def _map(study: Study) -> dict[str, Any]:
    """The vectors of all tuned models in the plane, in groups."""
    groups = {
        "a period": study.labels,
        "one after the other": study.online,
        "dates shuffled": study.shuffled,
    }
    labels = [label for group in groups.values() for label in group]
    vectors = np.stack([study.vector(label).double().numpy() for label in labels])
    short = {
        name: [label.removeprefix(ONLINE).removeprefix(SHUFFLED) for label in group]
        for name, group in groups.items()
        if group
    }
    return {"groups": short, "planes": planes(vectors)}


def claims(seeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the paper says, and a number a seed that decides it."""

    def claim(text: str, values: list[float], limit: float, above: bool = False) -> dict[str, Any]:
        return {"text": text, "values": values, "limit": limit, "above": above}

    found = [
        claim(
            "closer in weights, better on its text: correlation of cosine and misalignment",
            [s["correlation"]["cosine"]["with diagonal"] for s in seeds],
            -0.5,
        ),
        claim(
            "the same off the diagonal",
            [s["correlation"]["cosine"]["without"] for s in seeds],
            -0.5,
        ),
        claim("models degrade with distance: % a period", [s["slope"] for s in seeds], 0.0, True),
        claim(
            "the best weight of the earliest falls with the evaluated period: Spearman",
            [s["interpolation"]["spearman"] for s in seeds],
            -0.8,
        ),
        claim(
            "interpolation serves the middle period better than both ends: gain in nats, "
            "weight chosen on validation",
            [s["interpolation"]["middle gain"] for s in seeds],
            0.0,
            True,
        ),
        claim(
            "weights 0 and 1 are the end models: largest difference in nats",
            [s["interpolation"]["end_error"] for s in seeds],
            1e-6,
        ),
    ]
    if all("seasonality" in s for s in seeds):
        text = "the same month of other years is closer than its distance says: residual in %"
        found.append(claim(text, [s["seasonality"]["same"] for s in seeds], 0.0))
    return found


def run(folder: Path, *, quick: bool = False, documents: int = DOCUMENTS) -> Path:
    """Analyses a sweep and writes its report. Raises UserError where it has no such runs."""
    seeds, lms = [], _language_models(folder)
    for study in find_studies(folder):
        if len(study.labels) < 2:
            raise UserError(f"{folder}: needs runs of at least 2 periods")
        say(f"analysing seed {study.seed}: {len(study.labels)} periods")
        lm = lms.get(study.seed)
        seeds.append(analyse(study, quick=quick, lm=lm, documents=documents))
    found = claims(seeds)
    write_json(folder / "time_vectors.json", _plain({"claims": found, "seeds": seeds}))
    return write_report(folder, found, seeds)


def _language_models(folder: Path) -> dict[int, Study]:
    """By seed: the sweep that a task's runs were tuned from, where it has models of periods."""
    base = base_sweep(folder)
    try:
        return {} if base is None else {study.seed: study for study in find_studies(base)}
    except UserError:
        return {}


def shard(folder: Path, number: int, of: int) -> None:
    """Evaluates every `of`-th row of the grid, from `number` (counted from 1) on."""
    rows = [(study, label) for study in find_studies(folder) for label in study.labels]
    for study, label in rows[number - 1 :: of]:
        study.losses({label: 1.0})


def _plain(value: Any) -> Any:
    """Arrays as lists, NaN as None: what JSON can say."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.floating | float):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


class Analyses(Callback):
    """Hydra callback: analyses a sweep when its last job has ended. quick, documents: as in `analyse`."""

    def __init__(self, *, quick: bool = False, documents: int = DOCUMENTS):
        if documents < 2:
            raise ValueError(f"documents: must be at least 2, got {documents}")
        self.quick, self.documents = quick, documents

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            folder = Path(config.hydra.sweep.dir)
            say(f"report: {run(folder, quick=self.quick, documents=self.documents)}")
        except (UserError, ValueError) as error:
            say(f"time vectors: {error}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.time_vectors.analyse",
        description="Every analysis of a sweep of task=time_vectors.",
    )
    parser.add_argument("folder", type=Path, help="sweep folder")
    parser.add_argument("--shard", metavar="I/N", help="only evaluate the I-th of N parts")
    parser.add_argument(
        "--quick", action="store_true", help="the grid, cosines and interpolation alone"
    )
    parser.add_argument(
        "--documents",
        type=int,
        default=DOCUMENTS,
        metavar="N",
        help=f"of each period that a labelled task is scored on, at most ({DOCUMENTS})",
    )
    given = parser.parse_args(arguments)
    try:
        if given.shard:
            number, _, of = given.shard.partition("/")
            if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
                raise UserError(f"--shard {given.shard}: must be I/N, e.g. 1/4")
            shard(given.folder, int(number), int(of))
        else:
            if given.documents < 2:
                raise UserError(f"--documents {given.documents}: must be at least 2")
            print(run(given.folder, quick=given.quick, documents=given.documents))
    except (UserError, ValueError, OSError) as error:
        print(f"time vectors: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
