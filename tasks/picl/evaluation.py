"""In-context accuracy by the number of demonstrations, as PICL measures it.

A prompt is  (question answer line-end) x k  question,  without a document's beginning; the prediction
is the answer of least NLL, summed over its own tokens and the line end that follows (released code; the
length-normalised form differs only where answers have several tokens). One set of demonstrations a draw,
shared by all queries and balanced: the same number of each label. Queries are balanced too: of each
label as many as the rarest has (Gu et al. 2023 §4.1).

The parts are those of `tasks.icl`: sets, templates, encoding, scoring.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.tokenizers import Tokenizer
from tasks.icl.fewshot import Ids, answer_scores, encode_example
from tasks.icl.sets import Example, LabelledSet, Template, load_set
from tasks.picl.world import CLASSES, FORMS, SYNONYMS, WORDS, World, spell
from zoo.decoder import Decoder


@dataclass(frozen=True)
class Outcome:
    """Right answers among queries, for one set, draw and number of demonstrations asked for.

    shots: the demonstrations that fitted.
    """

    set: str
    draw: int
    asked: int
    shots: int
    right: int
    queries: int


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


class FewShotCurve:
    """Accuracy over the number of demonstrations.

    shots: demonstrations asked for. whole_labels: round up to whole rounds of the labels, as published
        (SST-5 "4-shot" is 5); otherwise exactly as many, so that some labels may be missing.
    draws: seeds of the demonstrations. calibrate: subtract the scores after a question without
        content (Zhao et al. 2021). normalised: mean NLL in place of the sum.
    max_tokens: longer demonstrations are not drawn.
    """

    def __init__(
        self,
        *,
        sets: FewShotSets | list[FewShotSets],
        shots: list[int],
        draws: list[int],
        whole_labels: bool = True,
        calibrate: bool = False,
        normalised: bool = False,
        max_tokens: int = 256,
        tokens_per_batch: int = 16384,
    ):
        if not shots or min(shots) < 0:
            raise ValueError(f"shots: must be a list of numbers from 0 on, got {shots}")
        if not draws:
            raise ValueError("draws: needs at least one seed")
        self.sources = sets if isinstance(sets, list) else [sets]
        self.shots, self.draws = sorted(shots), list(draws)
        self.whole_labels, self.calibrate, self.normalised = whole_labels, calibrate, normalised
        self.max_tokens, self.tokens_per_batch = max_tokens, tokens_per_batch
        self.loaded: list[tuple[str, LabelledSet]] = []

    def prepare(self) -> None:
        """Reads the sets, so that what is missing shows before training."""
        if not self.loaded:
            self.loaded = [
                ("world" if isinstance(source, WorldSets) else found.name, found)
                for source in self.sources
                for found in source.sets()
            ]

    def evaluate(
        self, model: Decoder, tokenizer: Tokenizer, *, context_length: int
    ) -> list[Outcome]:
        """One outcome a set, draw and number of demonstrations; the model is used as it is."""
        self.prepare()
        found = []
        for name, labelled in self.loaded:
            for draw in self.draws if max(self.shots) else self.draws[:1]:
                for asked in self.shots:
                    if not asked and draw != self.draws[0]:
                        continue
                    right, used = self._score(
                        model, tokenizer, labelled, asked, draw, context_length
                    )
                    found.append(Outcome(name, draw, asked, used, right, len(labelled.test)))
        return found

    def _score(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        labelled: LabelledSet,
        asked: int,
        draw: int,
        context_length: int,
    ) -> tuple[int, int]:
        end = tokenizer.encode("\n").tolist()
        template = labelled.template
        queries = [encode_example(tokenizer, template, example) for example in labelled.test]
        longest = max((query.longest + len(end) for query in queries), default=0)
        prefix, used = self.demonstrations(
            labelled, tokenizer, asked, draw, room=context_length - longest
        )
        options = [[answer + end for answer in query.answers] for query in queries]
        scores = self._nll(model, [q.question for q in queries], options, prefix)
        if self.calibrate:
            empty = encode_example(tokenizer, template, labelled.without_content())
            blank = [answer + end for answer in empty.answers]
            prior = self._nll(model, [empty.question], [blank], prefix)[0]
            scores = [score - prior for score in scores]
        right = sum(int(s.argmin() == query.gold) for s, query in zip(scores, queries))
        return right, used

    def _nll(
        self, model: Decoder, questions: list[Ids], options: list[list[Ids]], prefix: Ids
    ) -> list[np.ndarray]:
        means = answer_scores(
            model, questions, options, prefix=prefix, tokens_per_batch=self.tokens_per_batch
        )
        sizes = [[1 if self.normalised else len(o) for o in option] for option in options]
        return [-mean.numpy() * np.array(size) for mean, size in zip(means, sizes)]

    def demonstrations(
        self, labelled: LabelledSet, tokenizer: Tokenizer, asked: int, draw: int, *, room: int
    ) -> tuple[Ids, int]:
        """Tokens of the demonstrations and how many there are: those that fit `room` of a draw that
        depends on the set's name, the seed and nothing else, so that fewer are the first of more."""
        end = tokenizer.encode("\n").tolist()
        random = np.random.default_rng((draw, *labelled.name.encode()))
        by_label: dict[int, list[Ids]] = defaultdict(list)
        for i in random.permutation(len(labelled.train)):
            example = encode_example(tokenizer, labelled.template, labelled.train[int(i)])
            ids = [*example.question, *example.answer, *end]
            if len(ids) <= self.max_tokens:
                by_label[example.gold].append(ids)
        labels = sorted(label for label in by_label if not _left_out(labelled, label))
        if not asked or not labels:
            return [], 0
        rounds = -(-asked // len(labels))
        chosen: list[Ids] = []
        for turn in range(rounds):
            for place in random.permutation(len(labels)):
                if turn < len(by_label[labels[place]]):
                    chosen.append(by_label[labels[place]][turn])
        if not self.whole_labels:
            chosen = chosen[:asked]
        prefix: Ids = []
        for count, ids in enumerate(chosen):
            if len(prefix) + len(ids) > room:
                return prefix, count
            prefix += ids
        return prefix, len(chosen)


def _left_out(labelled: LabelledSet, label: int) -> bool:
    """Released: the pool of CB's demonstrations has no Maybe."""
    return labelled.name == "cb" and labelled.template.answers[label] == "Maybe"


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """`test/fewshot_accuracy@k`, the mean over sets of their accuracies in [0, 1], and `test/fewshot_accuracy_SET@k`.

    The tasks of a world count as one set.
    """
    by: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by[outcome.set, outcome.asked].append(outcome)
    result: dict[str, Any] = {}
    by_shots: dict[int, list[float]] = defaultdict(list)
    for (name, asked), of in by.items():
        accuracy = sum(o.right for o in of) / sum(o.queries for o in of)
        result[f"test/fewshot_accuracy_{name}@{asked}"] = accuracy
        by_shots[asked].append(accuracy)
    means = {f"test/fewshot_accuracy@{k}": float(np.mean(v)) for k, v in sorted(by_shots.items())}
    return {**means, **(result if len({o.set for o in outcomes}) > 1 else {})}
