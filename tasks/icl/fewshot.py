"""Few-shot classification by label log-likelihood, for any decoder of the zoo.

    labelled = load_set("sst2", folder="classification")           # tasks/icl/sets.py; or from the Hub
    shot = FewShot(labelled, tokenizer, context_length=1024, shots=16, seed=0, max_queries=500)
    report = shot.evaluate(model)
    report.accuracy, report.shots, report.predicted                # percent, demonstrations that fit

A prompt is  bos  (question answer separator) x k  question  and the prediction the answer of largest

    score(a) = mean over the tokens of a of log p(token | prompt, tokens of a before it)

(Dai et al. 2022 §4; Brown et al. 2020). With `calibrate` the score of the same answer after a question
without content ("N/A" in every field) is subtracted (Zhao et al. 2021).

The parts, each of use by itself: `draw` picks demonstrations, `fitting` says how many fit the
context, `encode_example` turns an example into token ids, `answer_scores` scores candidate answers in
batches that read a common prefix (the demonstrations) once, through the model's cache.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.data.tokenizers import Tokenizer
from tasks.icl.metrics import Rate, accuracy
from tasks.icl.sets import Example, LabelledSet, Template
from zoo.cache import Cache
from zoo.decoder import Decoder

Ids = list[int]


@dataclass(frozen=True)
class Encoded:
    """An example as token ids: its question, every answer that it could have, and the right one's
    number."""

    question: Ids
    answers: list[Ids]
    gold: int

    @property
    def answer(self) -> Ids:
        """The right answer's ids."""
        return self.answers[self.gold]

    @property
    def longest(self) -> int:
        """Tokens of the question with its longest answer."""
        return len(self.question) + max(map(len, self.answers))


def encode_example(tokenizer: Tokenizer, template: Template, example: Example) -> Encoded:
    """Question and answers are encoded apart, so that a prompt is always a prefix of what it asks for."""
    return Encoded(
        tokenizer.encode(template.question(example)).tolist(),
        [tokenizer.encode(answer).tolist() for answer in template.answers_of(example)],
        example.label,
    )


def beginning(tokenizer: Tokenizer) -> Ids:
    """What stands before a prompt: the end-of-document id, if the tokenizer has one."""
    return [] if tokenizer.eos is None else [tokenizer.eos]


def separator(tokenizer: Tokenizer, template: Template) -> Ids:
    """What stands after each demonstration."""
    if template.separator is None:
        return beginning(tokenizer)
    return tokenizer.encode(template.separator).tolist()


def draw(count: int, shots: int, seed: int) -> list[int]:
    """Numbers of the first `shots` of `count` examples, shuffled by `seed`."""
    return np.random.default_rng(seed).permutation(count)[:shots].tolist()


def fitting(
    demonstrations: Sequence[Ids], *, start: int, longest_query: int, context_length: int
) -> int:
    """How many of the demonstrations, in order, fit: with them, `start` tokens and the longest query
    the prompt stays shorter than the context."""
    used = start + longest_query
    for count, ids in enumerate(demonstrations):
        used += len(ids)
        if used >= context_length:
            return count
    return len(demonstrations)


@torch.inference_mode()
def answer_scores(
    model: Decoder,
    questions: Sequence[Ids],
    answers: Sequence[Sequence[Ids]],
    *,
    prefix: Sequence[int] = (),
    tokens_per_batch: int = 16384,
) -> list[Tensor]:
    """For each question the mean log-probability of each of its answers, (answers,) float32 on the CPU.

    prefix: token ids before every question, read once. There must be at least one token before an
    answer. A question whose answers are single tokens costs one row, any other a row an answer.
    """
    rows: list[tuple[int, int | None, Ids]] = []  # question, its answer (None: all), tokens
    for i, (question, options) in enumerate(zip(questions, answers)):
        if not (prefix or question) or not all(options):
            raise ValueError(
                f"question {i}: needs a token before the answer, and one in each answer"
            )
        if all(len(option) == 1 for option in options):
            rows.append((i, None, list(question)))
        else:
            rows += [(i, j, [*question, *option[:-1]]) for j, option in enumerate(options)]
    scores = [torch.empty(len(options)) for options in answers]
    device = next(model.parameters()).device
    context = _read(model, prefix, device)
    rows.sort(key=lambda row: len(row[2]))
    for batch in _batches(rows, len(prefix), tokens_per_batch):
        # Right padding: under a causal mask no token sees what stands behind it.
        width = max(1, max(len(tokens) for _, _, tokens in batch))
        tokens_BT = torch.zeros(len(batch), width, dtype=torch.long)
        places: list[tuple[int, int]] = []  # row, position whose output is read
        targets: list[int] = []  # what it should predict
        for b, (i, j, tokens) in enumerate(batch):
            tokens_BT[b, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            first = len(questions[i]) - 1
            wanted = [0] if j is None else answers[i][j]
            places += [(b, first + n) for n in range(len(wanted))]
            targets += wanted
        row_N, place_N = torch.tensor(places, device=device).T
        last_NV = _outputs(model, tokens_BT.to(device), context, row_N, place_N)
        log_NV = last_NV.float().log_softmax(-1)
        own_N = log_NV.gather(1, torch.tensor(targets, device=device)[:, None])[:, 0].cpu()
        start = 0
        for i, j, _ in batch:
            if j is None:
                single = torch.tensor([option[0] for option in answers[i]], device=device)
                scores[i] = log_NV[start, single].cpu()
                start += 1
            else:
                size = len(answers[i][j])
                scores[i][j] = own_N[start : start + size].mean()
                start += size
    return scores


@dataclass(frozen=True)
class _Context:
    """What the prefix left: its cache, and the output after its last token (C,)."""

    cache: Cache
    last_C: Tensor


def _read(model: Decoder, prefix: Sequence[int], device: torch.device) -> _Context | None:
    if not prefix:
        return None
    cache = model.new_cache()
    tokens_1T = torch.tensor([list(prefix)], device=device)
    return _Context(cache, model.hidden(tokens_1T, cache=cache)[0, -1])


def _outputs(
    model: Decoder, tokens_BT: Tensor, context: _Context | None, row_N: Tensor, place_N: Tensor
) -> Tensor:
    """Logits (N, V) at the given rows and positions; position -1 is the prefix's last."""
    if context is None:
        return model.head(model.hidden(tokens_BT)[row_N, place_N])
    cache = repeated(context.cache, len(tokens_BT))
    hidden_BTC = model.hidden(tokens_BT, cache=cache)
    before_B1C = context.last_C.expand(len(tokens_BT), 1, -1)
    return model.head(torch.cat((before_B1C, hidden_BTC), 1)[row_N, place_N + 1])


def repeated(cache: Cache, rows: int) -> Cache:
    """A cache of `rows` copies of the one row that `cache` holds; `cache` itself stays as it is."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    found.reorder(torch.zeros(rows, dtype=torch.long))
    return found


def _batches(rows: list, prefix: int, tokens_per_batch: int) -> list[list]:
    """Rows of similar length together, at most so many tokens (the prefix counts in each row)."""
    batches: list[list] = []
    for row in rows:  # sorted: the newest is the longest
        size = prefix + max(1, len(row[2]))
        if not batches or (len(batches[-1]) + 1) * size > tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    return batches


@dataclass(frozen=True)
class Report:
    """accuracy in percent; the demonstrations that fitted; gold and predicted answer by query."""

    accuracy: Rate
    shots: int
    gold: list[int]
    predicted: list[int]


class FewShot:
    """One draw of demonstrations for one set.

    shots: to draw; `self.shots` is how many fit `context_length` beside the longest query of the set.
    calibrate: subtract the scores of a question without content.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        shots: int = 16,
        seed: int = 0,
        calibrate: bool = False,
        max_queries: int | None = None,
    ):
        if shots < 0:
            raise ValueError(f"shots: must be at least 0, got {shots}")
        self.labelled, self.tokenizer, self.calibrate = labelled, tokenizer, calibrate
        template = labelled.template
        chosen = draw(len(labelled.train), shots, seed)
        drawn = [encode_example(tokenizer, template, labelled.train[i]) for i in chosen]
        self.queries = [
            encode_example(tokenizer, template, e) for e in labelled.queries(max_queries)
        ]
        between = separator(tokenizer, template)
        parts = [[*example.question, *example.answer, *between] for example in drawn]
        start = beginning(tokenizer)
        self.shots = fitting(
            parts,
            start=len(start),
            longest_query=max((query.longest for query in self.queries), default=0),
            context_length=context_length,
        )
        self.demonstrations = drawn[: self.shots]
        self.prefix = [*start, *(i for part in parts[: self.shots] for i in part)]

    def evaluate(self, model: Decoder, *, tokens_per_batch: int = 16384) -> Report:
        """Accuracy over the queries; the model is used as it is (put it in eval mode)."""
        options = [query.answers for query in self.queries]
        scores = answer_scores(
            model,
            [query.question for query in self.queries],
            options,
            prefix=self.prefix,
            tokens_per_batch=tokens_per_batch,
        )
        if self.calibrate:
            empty = encode_example(
                self.tokenizer, self.labelled.template, self.labelled.without_content()
            )
            priors = answer_scores(
                model, [empty.question] * len(options), options, prefix=self.prefix
            )
            scores = [score - prior for score, prior in zip(scores, priors)]
        predicted = [int(score.argmax()) for score in scores]
        gold = [query.gold for query in self.queries]
        return Report(accuracy(gold=gold, predicted=predicted), self.shots, gold, predicted)
