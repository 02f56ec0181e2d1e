"""The published scores of a labelled task: each model on each period's documents, and by which answer.

    macro-F1   a class is the label whose likelihood after the text is highest; `written`: the greedy text
               itself, as published, where a malformed one is a class of its own
    ROUGE-L    of greedily written text, where there are more than 50 different answers

Decoders go on with the text; T5 (data.examples) reads it and writes the answer.
"""

from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.errors import UserError
from tasks.time_vectors.analysis import (
    correlation_p_value,
    misalignment_correlation,
    temporal_degradation,
)
from tasks.time_vectors.blocks import BEFORE
from tasks.time_vectors.metrics import macro_f1, rouge_l
from tasks.time_vectors.study import Study
from tasks.time_vectors.template import prompt
from zoo.generate import generate

MOST_CLASSES = 50
DOCUMENTS = 200  # of a period that are scored, unless more are asked for
ROWS = 128  # texts with a label, read at once


class Judge:
    """Scores a study's working model on the documents of a period.

    labels: None where answers are no classes. Raises UserError where data.template is missing.
    """

    def __init__(self, study: Study, *, limit: int = DOCUMENTS):
        self.study, self.limit = study, limit
        self._encode = lru_cache(maxsize=1 << 14)(self._ids)
        self.template = study.data.template
        if self.template is None:
            raise UserError("data.template: the runs of the task have none; see downstream.py")
        labels = {
            prompt(self.template, document)[1]
            for period in study.labels
            for document in study.data.documents_of(period, "train")
        }
        self.labels = sorted(labels) if len(labels) <= MOST_CLASSES else None

    @property
    def metric(self) -> str:
        return "rouge_l" if self.labels is None else "macro_f1"

    def examples(self, period: str, split: str) -> list[tuple[str, str]]:
        """Prompts and answers, the first `limit` in the order of their hashes."""
        documents = self.study.data.documents_of(period, split)[: self.limit]
        return [prompt(str(self.template), document) for document in documents]

    def score(self, examples: list[tuple[str, str]], *, written: bool = False) -> float:
        """Macro-F1 of the classes, `written` or the likeliest; or ROUGE-L. In [0, 1]."""
        texts, gold = [text for text, _ in examples], [answer for _, answer in examples]
        if self.labels is None:
            return rouge_l(gold, self.write(texts))
        return macro_f1(gold, self.write(texts) if written else self.classify(texts))

    @torch.no_grad()
    def classify(self, texts: list[str]) -> list[str]:
        """Of each text the likeliest label."""
        assert self.labels is not None
        pairs = [(text, label) for text in texts for label in self.labels]
        scores = []
        for first in range(0, len(pairs), ROWS):
            batch = (self._read if self.study.data.examples else self._continue)(
                pairs[first : first + ROWS]
            )
            _, losses = self.study.model.loss(**batch)  # type: ignore[operator]
            scores.append(-losses.double().sum(1))
        best = torch.cat(scores).reshape(len(texts), len(self.labels)).argmax(1)
        return [self.labels[i] for i in best]

    def _ids(self, text: str) -> Tensor:
        return torch.from_numpy(self.study.data.tokenizer.encode(text).astype(np.int64))

    def _continue(self, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        """Text and label in one row; the label alone counts."""
        length = self.study.data.context_length
        tokens = torch.zeros(len(pairs), length + 1, dtype=torch.long)
        targets = torch.full((len(pairs), length), -100)
        for i, (text, label) in enumerate(pairs):
            whole = self._encode(text + label)
            ids = whole[-length - 1 :]
            answer = min(max(len(whole) - len(self._encode(text)), 1), len(ids) - 1)
            tokens[i, : len(ids)] = ids
            targets[i, len(ids) - 1 - answer : len(ids) - 1] = ids[-answer:]
        return {"tokens_BT": tokens[:, :-1], "targets_BT": targets}

    def _read(self, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        """The text to read, and the label with its end to write."""
        data = self.study.data
        answers = [self._encode(label)[: data.answer_length] for _, label in pairs]
        targets = torch.full((len(pairs), max(map(len, answers)) + 1), -100)
        for i, ids in enumerate(answers):
            targets[i, : len(ids)] = ids
            targets[i, len(ids)] = int(data.tokenizer.eos or 0)
        sources = self._sources([text for text, _ in pairs])
        return {"tokens_BT": sources, "targets_BT": targets, "sources_BT": sources}

    def _sources(self, texts: list[str]) -> Tensor:
        """As `Examples` has them."""
        data = self.study.data
        rows = [self._encode(text)[: data.context_length - 1] for text in texts]
        sources = torch.full((len(rows), max(map(len, rows)) + 1), BEFORE)
        for i, ids in enumerate(rows):
            sources[i, sources.shape[1] - 1 - len(ids) : -1] = ids
        sources[:, -1] = int(data.tokenizer.eos or 0)
        return sources

    @torch.no_grad()
    def write(self, texts: list[str]) -> list[str]:
        """Greedy answers."""
        data, model = self.study.data, self.study.model
        if not data.examples:
            return [self._write(text) for text in texts]
        found = []
        for first in range(0, len(texts), ROWS):
            sources = self._sources(texts[first : first + ROWS])
            ids = model.generate(sources, max_tokens=data.answer_length, end=data.tokenizer.eos)  # type: ignore[operator]
            for row in ids.tolist():
                end = row.index(data.tokenizer.eos) if data.tokenizer.eos in row else len(row)
                found.append(data.tokenizer.decode(row[:end]).strip())
        return found

    def _write(self, text: str, *, most: int = 48) -> str:
        data = self.study.data
        prompt_1T = self._encode(text)[-data.context_length :][None]
        found = generate(self.study.model, prompt_1T, max_new_tokens=most, temperature=0.0)  # type: ignore[arg-type]
        ids = takewhile(lambda i: i != data.tokenizer.eos, map(int, found))
        return data.tokenizer.decode(list(ids)).strip()


def matrix(study: Study, judge: Judge, *, written: bool = False) -> dict[str, Any]:
    """Scores x 100, `scores` (periods trained, periods evaluated) and `base` (periods,), with what they
    say: the correlation of their misalignment with the cosines, points lost a period."""
    metric = f"{judge.metric}{' written' if written else ''}"

    def row(weights: dict[str, float]) -> list[float]:
        study.set(weights)
        return [
            100
            * study.measure(
                period,
                "test",
                f"{metric}@{judge.limit}",
                lambda period=period: judge.score(judge.examples(period, "test"), written=written),  # type: ignore[misc]
            )
            for period in study.labels
        ]

    scores = np.array([row({label: 1.0}) for label in study.labels])
    cosines = study.cosines()
    return {
        "metric": metric,
        "documents": [len(judge.examples(period, "test")) for period in study.labels],
        "scores": scores,
        "base": row({}),
        "with diagonal": misalignment_correlation(scores, cosines),
        "without": misalignment_correlation(scores, cosines, include_diagonal=False),
        "p without": correlation_p_value(scores, cosines, include_diagonal=False),
        "temporal degradation": temporal_degradation(scores)[0],
        "own period": float(np.diag(scores).mean()),
        "other periods": float(scores[~np.eye(len(scores), dtype=bool)].mean()),
    }
