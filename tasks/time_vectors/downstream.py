"""Time vectors of a labelled task, and the analogy that moves them to another period (their Fig. 7).

    python -m tasks.time_vectors.downstream LM_SWEEP TASK_SWEEP      analogy.json and .png in the latter

    theta(k) = theta_base + a1 tau_task(j) + a2 tau_lm(k) - a3 tau_lm(j)

The task's runs are tuned, from the base models of the language models' sweep, on documents written by
a template that ends with the label or summary, e.g. data.template="{text} => {section}". A class is
the label whose likelihood after the text is highest; a summary is written greedily. Coefficients are
chosen on half of the target period's documents and scored on the other half, beside these controls:
the task's model as it is, its vector scaled alone (a2 = a3 = 0), and random directions as long as the
language models' step.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.errors import UserError
from tasks.run_folder import write_json
from tasks.time_vectors.labelled import DOCUMENTS, Judge
from tasks.time_vectors.pictures import analogy_picture
from tasks.time_vectors.study import Study, find_studies
from tasks.time_vectors.tables import analogy_table

A1 = (0.8, 1.0, 1.2, 1.4)
A2 = (0.0, 0.2, 0.4, 0.6)  # also for a3


Form = tuple[float, torch.Tensor]  # a1, and what is added to a1 tau_task


def score(judge: Judge, period: str, half: int) -> float:
    """Of the working model on the first (0) or second (1) half of a period's test documents."""

    def compute() -> float:
        examples = judge.examples(period, "test")
        middle = len(examples) // 2
        return judge.score(examples[middle:] if half else examples[:middle])

    metric = f"{judge.metric}@{judge.limit} half {half}"
    return judge.study.measure(period, "test", metric, compute)


def best(judge: Judge, source: str, target: str, forms: list[Form]) -> tuple[int, float]:
    """The form that is best on the first half of the target's documents: its number, and its score on
    the second half."""
    study = judge.study

    def of(number: int, half: int) -> float:
        a1, other = forms[number]
        study.flat.copy_(study.base).add_(study.vector(source), alpha=a1).add_(other)
        return score(judge, target, half)

    chosen = 0
    if len(forms) > 1:
        chosen = int(np.argmax([of(number, 0) for number in range(len(forms))]))
    return chosen, of(chosen, 1)


def analogy(lm: Study, task: Study, *, seed: int = 0, limit: int = DOCUMENTS) -> dict[str, Any]:
    """From the task's first period to each later one that both studies have."""
    judge = Judge(task, limit=limit)
    if not torch.equal(lm.base, task.base):
        raise UserError(
            "the two sweeps do not share a base model; set task.base to the first sweep"
        )
    source = task.labels[0]
    shared = [p for p in lm.labels if p in judge.study.data.periods and p != source]
    if source not in lm.labels or not shared:
        raise UserError(f"the language models' sweep needs {source} and a period after it")
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = {"source": source, "metric": judge.metric}
    for target in shared:
        late, early = lm.vector(target), lm.vector(source)
        noise = torch.randn(len(late), generator=draw)
        noise *= (late - early).norm() / noise.norm()
        nothing = torch.zeros_like(late)
        grid = [(a1, a2, a3) for a1 in A1 for a2 in A2 for a3 in A2]
        forms = {
            "as it is": [(1.0, nothing)],
            "scaled alone": [(a1, nothing) for a1 in A1],
            "random direction": [(1.0, a * noise) for a in A2],
            "analogy": [(a1, a2 * late - a3 * early) for a1, a2, a3 in grid],
        }
        chosen = {name: best(judge, source, target, f) for name, f in forms.items()}
        found[target] = {
            **{name: score for name, (_, score) in chosen.items()},
            "coefficients": grid[chosen["analogy"][0]],
        }
        if target in task.runs:
            task.set({target: 1.0})
            found[target]["tuned on the target"] = score(judge, target, 1)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.time_vectors.downstream",
        description="Task analogies between periods: coefficients chosen on held-out documents.",
    )
    parser.add_argument("lm", type=Path, help="sweep of language models")
    parser.add_argument("task", type=Path, help="sweep of the task's models, tuned from its bases")
    given = parser.parse_args(arguments)
    try:
        lms = {study.seed: study for study in find_studies(given.lm)}
        tasks = {study.seed: study for study in find_studies(given.task, base=given.lm)}
        if not lms.keys() & tasks.keys():
            raise UserError(f"{given.task}: shares no seed with {given.lm}")
        seeds = [analogy(lms[s], tasks[s]) for s in sorted(lms.keys() & tasks.keys())]
    except (UserError, ValueError, OSError) as error:
        print(f"time vectors: {error}", file=sys.stderr)
        return 2
    write_json(given.task / "analogy.json", {"seeds": seeds})
    each = [{"analogy": found} for found in seeds]
    (given.task / "analogy.png").write_bytes(analogy_picture(each)[1])
    show(each)
    return 0


def show(seeds: list[dict[str, Any]]) -> None:
    """Prints the table of the report."""
    title, rows = analogy_table(seeds)
    print(title)
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).rjust(width) for cell, width in zip(row, widths)))


if __name__ == "__main__":
    sys.exit(main())
