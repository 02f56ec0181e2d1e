"""In-context accuracy by the number of demonstrations, as PICL measures it.

A prompt is  (question answer line-end) x k  question,  without a document's beginning; the prediction
is the answer of least NLL, summed over its own tokens and the line end that follows (released code; the
length-normalised form differs only where answers have several tokens). One set of demonstrations a draw,
shared by all queries and balanced: the same number of each label (Gu et al. 2023 §4.1). Which sets there
are: `sets`.

The parts are those of `tasks.icl`: sets, templates, encoding, scoring.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.data.tokenizers import Tokenizer
from tasks.icl.fewshot import Ids, answer_scores, encode_example
from tasks.icl.sets import LabelledSet
from tasks.picl.sets import FewShotSets, WorldSets
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
