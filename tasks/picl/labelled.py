"""Labelled tasks, rendered as paragraphs: what the retriever learns "the same task" from.

A task is a labelled set of rows with templates that put a row into words (PICL: PromptSource's). A hard
negative is the query's template filled with another task's row and a label drawn at random from the
query's task, so that wording cannot give the task away (Gu et al. 2023 §3.1). It needs a task whose rows
have the fields that the template names; where there is none, an easy negative takes its place.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.stage import digest
from tasks.errors import UserError
from tasks.icl.sets import Example, LabelledSet, load_set
from tasks.picl.retriever import Batch, Examples
from tasks.picl.world import WORDS, World, spell

Row = Mapping[str, str]


@dataclass(frozen=True)
class LabelledTask:
    """templates: with {label} and the rows' other fields in braces. rows: each with its "label"."""

    name: str
    templates: tuple[str, ...]
    rows: Sequence[Row]

    @cached_property
    def labels(self) -> list[str]:
        """Every label that occurs."""
        return sorted({row["label"] for row in self.rows})

    def render(self, template: int, row: Row, *, label: str | None = None) -> str:
        """A paragraph: the row in one of the templates, with another label where one is given."""
        fields = dict(row) if label is None else {**row, "label": label}
        return self.templates[template].format(**fields)

    def fits(self, template: int, row: Row) -> bool:
        """Whether a row, of whatever task, has the fields that the template names."""
        return set(re.findall(r"{(\w+)}", self.templates[template])) <= row.keys()


class Sampler:
    """Batches of a set of tasks."""

    def __init__(
        self,
        tasks: Sequence[LabelledTask],
        *,
        batch_size: int,
        easy_negatives: int,
        hard_negatives: int,
        hard_scope: str,
        positives: str,
        seed: int,
    ):
        self.tasks = list(tasks)
        self.batch_size = batch_size
        self.easy, self.hard = easy_negatives, hard_negatives
        self.hard_scope, self.positives = hard_scope, positives
        self.seed = seed

    def batch(self, index: int) -> Batch:
        """Batch number `index`."""
        draw = np.random.default_rng((self.seed, index))
        queries: list[str] = []
        candidates: list[str] = []
        labels: list[tuple[int, int]] = []  # of the queries: task and template
        marks: list[
            tuple[int, int]
        ] = []  # of the candidates, (-1, -1) for what is no row of a task
        owners: list[int] = []  # the query that a hard negative belongs to, else -1
        own: list[int] = []
        for i in range(self.batch_size):
            number = int(draw.integers(len(self.tasks)))
            task = self.tasks[number]
            template = int(draw.integers(len(task.templates)))
            row, other = draw.choice(len(task.rows), 2, replace=False)
            queries.append(task.render(template, task.rows[row]))
            labels.append((number, template))
            again = template if self.positives == "template" else draw.integers(len(task.templates))
            own.append(len(candidates))
            candidates.append(task.render(int(again), task.rows[other]))
            marks.append((number, int(again)))
            owners.append(-1)
            hard = self._hard(draw, number, template)
            for text in hard:
                candidates.append(text)
                marks.append((-1, -1))
                owners.append(i)
            for _ in range(self.easy + self.hard - len(hard)):
                text, mark = self._easy(draw, number)
                candidates.append(text)
                marks.append(mark)
                owners.append(-1)
        label_B2, mark_M2 = torch.tensor(labels), torch.tensor(marks)
        same_BM2 = label_B2[:, None] == mark_M2
        positive = same_BM2[..., 0] if self.positives == "task" else same_BM2.all(-1)
        owner_M = torch.tensor(owners)
        visible = torch.ones_like(positive)
        if self.hard_scope == "own":
            visible = (owner_M < 0) | (owner_M == torch.arange(self.batch_size)[:, None])
        return Batch(queries, candidates, torch.tensor(own), positive, visible)

    def _other(self, draw: np.random.Generator, number: int) -> int:
        return int((number + 1 + draw.integers(len(self.tasks) - 1)) % len(self.tasks))

    def _easy(self, draw: np.random.Generator, number: int) -> tuple[str, tuple[int, int]]:
        other = self._other(draw, number)
        task = self.tasks[other]
        template = int(draw.integers(len(task.templates)))
        row = task.rows[int(draw.integers(len(task.rows)))]
        return task.render(template, row), (other, template)

    def _hard(self, draw: np.random.Generator, number: int, template: int) -> list[str]:
        """At most `hard` of them, given up after twice as many tries."""
        task = self.tasks[number]
        found: list = []
        for _ in range(2 * self.hard):
            if len(found) == self.hard:
                break
            source = self.tasks[self._other(draw, number)]
            row = source.rows[int(draw.integers(len(source.rows)))]
            if task.fits(template, row):
                label = task.labels[int(draw.integers(len(task.labels)))]
                found.append(task.render(template, row, label=label))
        return found


class Labelled(Examples):
    """Tasks to train a retriever on, and others to judge it by."""

    @property
    @abstractmethod
    def train(self) -> list[LabelledTask]:
        """The tasks that it may see."""

    @property
    @abstractmethod
    def held_out(self) -> list[LabelledTask]:
        """Tasks that it must never see."""

    def batch(self, index: int, **sampling: Any) -> Batch:
        return Sampler(self.train, **sampling).batch(index)


class WorldTasks(Labelled):
    """The labelled tasks of a `World`: its test tasks are the held-out ones."""

    def __init__(self, *, world: World, rows_per_task: int = 200, templates_per_task: int = 4):
        if rows_per_task < 2:
            raise ValueError(f"rows_per_task: must be at least 2, got {rows_per_task}")
        if not 1 <= templates_per_task <= len(WORDS["form"]):
            raise ValueError(
                f"templates_per_task: must be in [1, {len(WORDS['form'])}], got {templates_per_task}"
            )
        self.world = world
        self.rows_per_task = rows_per_task
        self.templates_per_task = templates_per_task

    @cached_property
    def train(self) -> list[LabelledTask]:
        return [self._task(t) for t in self.world.labelled_tasks]

    @cached_property
    def held_out(self) -> list[LabelledTask]:
        return [self._task(t) for t in self.world.test_tasks]

    def _task(self, number: int) -> LabelledTask:
        draw = self.world.draws(1, number)
        forms = draw.choice(WORDS["form"], self.templates_per_task, replace=False).tolist()
        rows = spell(self.world.contents(draw, np.full(self.rows_per_task, number)))
        return LabelledTask(
            f"task {number}",
            tuple(f"{form} {{text}} {{label}}" for form in forms),
            [{"text": text, "label": label} for text, label in rows],
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {
            **self.world.fingerprint,
            "rows": self.rows_per_task,
            "templates": self.templates_per_task,
        }


TEMPLATES = (
    "Sentence: {text} Label: {label}",
    "Input: {text} Type: {label}",
    "{text} It was {label}.",
    "Text: {text} Answer: {label}",
)


def rows_of_set(
    found: LabelledSet, examples: Sequence[Example], most: int, seed: int
) -> list[dict[str, str]]:
    """Rows with "text" (the fields of the prompt, joined) and "label", the first of a shuffle."""
    rows = []
    for i in np.random.default_rng(seed).permutation(len(examples))[:most]:
        example = examples[int(i)]
        answer = found.template.answers_of(example)[example.label].strip()
        text = " ".join(example.fields[field] for field in found.template.names)
        rows.append({"text": " ".join(text.split()), "label": answer})
    return rows


class SetTasks(Labelled):
    """Labelled sets of `tasks.icl.sets`, each a task: JSON lines in a folder, or the Hub.

    names, held_out: the sets to learn from and to judge by. templates: shared by all tasks, so that
    no wording belongs to one. max_rows: of each set, the first of a fixed shuffle.
    """

    def __init__(
        self,
        *,
        names: list[str],
        held_out: list[str] | None = None,
        folder: str | Path | None = None,
        templates: list[str] | None = None,
        max_rows: int = 1000,
        seed: int = 42,
    ):
        both = set(names) & set(held_out or [])
        if both:
            raise ValueError(f"held_out: {', '.join(sorted(both))} would be trained on as well")
        if len(names) < 2:
            raise ValueError("names: needs at least two sets, or nothing is of another task")
        if max_rows < 2:
            raise ValueError(f"max_rows: must be at least 2, got {max_rows}")
        self.names, self.others = list(names), list(held_out or [])
        self.folder, self.max_rows, self.seed = folder, max_rows, seed
        self.templates = tuple(templates or TEMPLATES)
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"templates: {template!r} names no {{label}}")

    @cached_property
    def train(self) -> list[LabelledTask]:
        return [self._task(name) for name in self.names]

    @cached_property
    def held_out(self) -> list[LabelledTask]:
        return [self._task(name) for name in self.others]

    def _task(self, name: str) -> LabelledTask:
        found = load_set(name, folder=self.folder)
        rows = rows_of_set(found, found.train, self.max_rows, self.seed)
        if len(rows) < 2:
            raise UserError(f"names: {name} has {len(rows)} training row(s), too few")
        return LabelledTask(name, self.templates, rows)

    @property
    def fingerprint(self) -> dict[str, Any]:
        content = digest([[t.name, list(t.templates), list(map(dict, t.rows))] for t in self.train])
        return {"labelled": "sets", "content": content}
