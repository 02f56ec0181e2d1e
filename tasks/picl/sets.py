"""Sets to be judged on in context: the tasks of a world that nothing else shows, and real ones.

Queries are balanced, as published: of each label as many as the rarest has (Gu et al. 2023 §4.1).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.icl.sets import Example, LabelledSet, Template, load_set
from tasks.picl.world import CLASSES, FORMS, SYNONYMS, WORDS, World, spell


class FewShotSets:
    """Sets to be judged on. Subclasses say which."""

    def sets(self) -> Iterable[LabelledSet]:
        """Each with training examples to draw demonstrations from."""
        raise NotImplementedError


class WorldSets(FewShotSets):
    """The world's test tasks, each a set of its own, its queries' keys never those of a demonstration:
    the answer has to be found by the class of the key."""

    def __init__(self, *, world: World, rows: int = 64, queries: int = 10):
        if rows < CLASSES or queries < 1:
            raise ValueError(
                f"rows: must be at least {CLASSES} and queries 1, got {rows}, {queries}"
            )
        self.world, self.rows, self.queries = world, rows, queries

    def sets(self) -> Iterable[LabelledSet]:
        for task in self.world.test_tasks:
            draw = self.world.draws(6, task)
            contents = self.world.contents(draw, np.full(64 * (self.rows + self.queries), task))
            forms = WORDS["form"][draw.integers(FORMS, size=len(contents))]
            answers = WORDS["answer"][self.world.tasks[task].answers].tolist()
            examples = [
                Example({"form": str(form), "text": text}, answers.index(answer))
                for form, (text, answer) in zip(forms, spell(contents))
            ]
            shown = contents[:, 3] % SYNONYMS < SYNONYMS // 2
            train = [example for example, s in zip(examples, shown) if s][: self.rows]
            test = [example for example, s in zip(examples, shown) if not s][: self.queries]
            template = Template("{form} {text}", tuple(answers))
            yield LabelledSet(f"task {task}", template, train, test)


# Gu et al. 2023, Table 6, as the released code renders it: our set -> prompt, answer -> label there.
PUBLISHED: dict[str, tuple[str, dict[str, str]]] = {
    "sst2": ("Sentence: {text} Label:", {"Negative": "negative", "Positive": "positive"}),
    "mr": ("Sentence: {text} Label:", {"Negative": "negative", "Positive": "positive"}),
    "sst5": (
        "Sentence: {text} Label:",
        {
            "terrible": "very negative",
            "bad": "negative",
            "neutral": "neutral",
            "good": "positive",
            "great": "very positive",
        },
    ),
    "subj": ("Input: {text} Type:", {"Objective": "objective", "Subjective": "subjective"}),
    "agnews": (
        "Sentence: {text} Label:",
        {
            "World politics": "World",
            "Sports": "Sports",
            "Business": "Business",
            "Science and technology": "Sci/Tech",
        },
    ),
    "rte": (
        "Passage: {premise} Question: {hypothesis} Yes or No? Answer:",
        {"Yes": "entailment", "No": "not_entailment"},
    ),
    "cb": (
        "Passage: {premise} Question: {hypothesis} Answer:",
        {"Yes": "entailment", "No": "contradiction", "Maybe": "neutral"},
    ),
    "trec": (
        "Question: {text} Type:",
        {
            "Abbreviation": "abbreviation",
            "Entity": "entity",
            "Description": "description",
            "Human": "human",
            "Location": "location",
            "Number": "numeric",
        },
    ),
}


class TextSets(FewShotSets):
    """Sets of `tasks.icl.sets` in the published templates: JSON lines in `folder`, or the Hub.

    max_queries: of each set once balanced (published: 1,000).
    """

    def __init__(
        self,
        *,
        names: list[str],
        folder: str | Path | None = None,
        max_queries: int | None = 1000,
        balanced: bool = True,
    ):
        if not names:
            raise ValueError(f"names: is empty; give some of {', '.join(PUBLISHED)}, or your own")
        self.names, self.folder = list(names), folder
        self.max_queries, self.balanced = max_queries, balanced

    def sets(self) -> Iterable[LabelledSet]:
        for name in self.names:
            prompt, answers = PUBLISHED.get(name, (None, None))
            found = load_set(
                name,
                folder=self.folder,
                prompt=prompt,
                answers=None if answers is None else {v: k for k, v in answers.items()},
            )
            test = balance(found.test) if self.balanced and name != "cb" else list(found.test)
            if self.max_queries is not None:
                labels = len({example.label for example in test})
                per_label = self.max_queries // labels if self.balanced else self.max_queries
                test = first_of_each(test, per_label) if self.balanced else test[:per_label]
            yield replace(found, test=test)


def balance(examples: Iterable[Example]) -> list[Example]:
    """As many of each label as the rarest has, the first of each."""
    examples = list(examples)
    counts: dict[int, int] = defaultdict(int)
    for example in examples:
        counts[example.label] += 1
    return first_of_each(examples, min(counts.values(), default=0))


def first_of_each(examples: Iterable[Example], most: int) -> list[Example]:
    """At most so many of each label, in order."""
    taken: dict[int, int] = defaultdict(int)
    kept = []
    for example in examples:
        taken[example.label] += 1
        if taken[example.label] <= most:
            kept.append(example)
    return kept
