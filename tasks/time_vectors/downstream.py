"""Time vectors of a labelled task, and the analogy that moves them to another period (their Fig. 7).

    python -m tasks.time_vectors.downstream LM_SWEEP TASK_SWEEP

    theta(k) = theta_base + a1 tau_task(j) + a2 tau_lm(k) - a3 tau_lm(j)

The task's runs are tuned, from the base models of the language models' sweep, on documents written by
a template that ends with the label or summary, e.g. data.template="{text} => {section}". A class is
the label whose likelihood after the text is highest; a summary is written greedily. Coefficients are
chosen on half of the target period's documents and scored on the other half, beside these controls:
the task's model as it is, its vector scaled alone (a2 = a3 = 0), and random directions as long as the
language models' step.
"""

import argparse
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.corpora import Document
from tasks.errors import UserError
from tasks.run_folder import write_json
from tasks.time_vectors.data import fill
from tasks.time_vectors.metrics import macro_f1, rouge_l
from tasks.time_vectors.study import Study, find_studies
from zoo.report.stats import mean_interval

A1 = (0.8, 1.0, 1.2, 1.4)
A2 = (0.0, 0.2, 0.4, 0.6)  # also for a3
MOST_CLASSES = 50


def answer_column(template: str) -> str:
    """The field that a template ends with. Raises UserError where it ends otherwise."""
    fields = [(name, after) for after, name, *_ in string.Formatter().parse(template)]
    name = fields[-1][0] if fields else None
    if name in (None, "text"):
        raise UserError(f"data.template: {template!r} must end with the field to be predicted")
    return str(name)


def prompt(template: str, document: Document) -> tuple[str, str]:
    """What stands before the answer, and the answer."""
    column = answer_column(template)
    if column not in document.meta:
        raise UserError(
            f"data.template: a document has no {column}; keep it with data.meta_columns"
        )
    return fill(template, document, **{column: ""}), str(document.meta[column])


class Classifier:
    """Scores a task study's working model on the documents of a period, by labels or by summaries."""

    def __init__(self, study: Study, *, limit: int = 200):
        self.study, self.limit = study, limit
        self.template = study.data.template
        if self.template is None:
            raise UserError("data.template: the runs of the task have none; see the module")
        labels = {
            prompt(self.template, document)[1]
            for period in study.labels
            for document in study.data.documents_of(period, "train")
        }
        self.labels = sorted(labels) if len(labels) <= MOST_CLASSES else None

    def examples(self, period: str, split: str) -> list[tuple[str, str]]:
        """Prompts and answers, the first `limit` in the order of their hashes."""
        documents = self.study.data.documents_of(period, split)[: self.limit]
        return [prompt(str(self.template), document) for document in documents]

    def score(self, examples: list[tuple[str, str]]) -> float:
        """Macro-F1 of the classes; ROUGE-L where there are more than 50 different answers."""
        texts, gold = zip(*examples)
        if self.labels is None:
            return rouge_l(gold, [self._write(text) for text in texts])
        return macro_f1(gold, self._classify(list(texts)))

    def best(
        self,
        source: str,
        forms: list[tuple[float, torch.Tensor]],
        held_out: list[tuple[str, str]],
        test: list[tuple[str, str]],
    ) -> tuple[int, float]:
        """Of forms a1 tau_task(source) + other, the one that is best on held-out documents: its number,
        and its score on the test documents."""
        study = self.study

        def score(number: int, examples: list[tuple[str, str]]) -> float:
            a1, other = forms[number]
            study.flat.copy_(study.base).add_(study.vector(source), alpha=a1).add_(other)
            return self.score(examples)

        chosen = 0
        if len(forms) > 1:
            chosen = int(np.argmax([score(i, held_out) for i in range(len(forms))]))
        return chosen, score(chosen, test)

    @torch.no_grad()
    def _classify(self, texts: list[str]) -> list[str]:
        assert self.labels is not None
        encode, length = self.study.data.tokenizer.encode, self.study.data.context_length
        rows = [
            (encode(text + label), len(encode(text + label)) - len(encode(text)))
            for text in texts
            for label in self.labels
        ]
        scores = np.empty(len(rows))
        for first in range(0, len(rows), 128):
            part = rows[first : first + 128]
            tokens = torch.zeros(len(part), length + 1, dtype=torch.long)
            targets = torch.full((len(part), length), -100)
            for i, (row, answer) in enumerate(part):
                ids = torch.as_tensor(np.asarray(row, dtype=np.int64))[-length - 1 :]
                tokens[i, : len(ids)] = ids
                answer = min(max(answer, 1), len(ids) - 1)
                targets[i, len(ids) - 1 - answer : len(ids) - 1] = ids[-answer:]
            _, losses = self.study.model.loss(tokens[:, :-1], targets)  # type: ignore[operator]
            scores[first : first + len(part)] = -losses.double().sum(1).numpy()
        best = scores.reshape(len(texts), len(self.labels)).argmax(1)
        return [self.labels[i] for i in best]

    @torch.no_grad()
    def _write(self, text: str, *, most: int = 48) -> str:
        tokenizer, length = self.study.data.tokenizer, self.study.data.context_length
        ids = [int(i) for i in tokenizer.encode(text)]
        start = len(ids)
        while len(ids) - start < most:
            window = torch.tensor([ids[-length:]])
            following = int(self.study.model(window)[0, -1].argmax())
            if following == tokenizer.eos:
                break
            ids.append(following)
        return tokenizer.decode(ids[start:]).strip()


def analogy(lm: Study, task: Study, *, seed: int = 0) -> dict[str, Any]:
    """From the task's first period to each later one that both studies have."""
    judge = Classifier(task)
    if not torch.equal(lm.base, task.base):
        raise UserError(
            "the two sweeps do not share a base model; set task.base to the first sweep"
        )
    source = task.labels[0]
    shared = [p for p in lm.labels if p in judge.study.data.periods and p != source]
    if source not in lm.labels or not shared:
        raise UserError(f"the language models' sweep needs {source} and a period after it")
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = {
        "source": source,
        "metric": "rouge_l" if judge.labels is None else "macro_f1",
    }
    for target in shared:
        examples = judge.examples(target, "test")
        half = len(examples) // 2
        late, early = lm.vector(target), lm.vector(source)
        noise = torch.randn(len(late), generator=draw)
        noise *= (late - early).norm() / noise.norm()
        held_out, test = examples[:half], examples[half:]
        nothing = torch.zeros_like(late)
        grid = [(a1, a2, a3) for a1 in A1 for a2 in A2 for a3 in A2]
        forms = {
            "as it is": [(1.0, nothing)],
            "scaled alone": [(a1, nothing) for a1 in A1],
            "random direction": [(1.0, a * noise) for a in A2],
            "analogy": [(a1, a2 * late - a3 * early) for a1, a2, a3 in grid],
        }
        chosen = {name: judge.best(source, f, held_out, test) for name, f in forms.items()}
        found[target] = {
            **{name: score for name, (_, score) in chosen.items()},
            "coefficients": grid[chosen["analogy"][0]],
        }
        if target in task.runs:
            task.set({target: 1.0})
            found[target]["tuned on the target"] = judge.score(test)
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
    show(seeds)
    return 0


def show(seeds: list[dict[str, Any]]) -> None:
    """Prints a row a target: means over the seeds with 95% intervals."""
    kinds = [k for k, v in next(v for v in seeds[0].values() if isinstance(v, dict)).items()
             if isinstance(v, float)]  # fmt: skip
    print(f"{seeds[0]['metric']} on later periods, tuned on {seeds[0]['source']}")
    print("  ".join(["target".ljust(12), *(kind.rjust(20) for kind in kinds)]))
    for target, row in seeds[0].items():
        if isinstance(row, dict):
            cells = []
            for kind in kinds:
                e = mean_interval([seed[target][kind] for seed in seeds])
                cells.append(f"{e.mean:.3f}" + ("" if e.half is None else f" ± {e.half:.3f}"))
            print("  ".join([target.ljust(12), *(cell.rjust(20) for cell in cells)]))


if __name__ == "__main__":
    sys.exit(main())
