"""The self-supervised format (Chen et al. 2022, NAACL): tasks made of raw text, in PICL's place.

    next sentence      Input: three sentences              Output: the one that follows
    masked words       Input: text with words replaced     Output: the words
    last phrase        Input: text without its end         Output: the end
    classification     Input: text                         Output: original / shuffled / mixed

A sequence holds examples of one objective, a line end after each, as many as fit; the loss counts outputs
alone. A "sentence" is a line of a document, or of a long line what ends in . ! or ?.

Where the paper leaves open how: 1 to 20 words are masked, at most a third of the text, all by one symbol;
the last phrase begins after the last function word, or is the last word where there is none; "mixed" has
a sentence of another document in it.
"""

import re
from collections.abc import Callable
from typing import Literal

import numpy as np

from tasks.data.datamodule import TextData
from tasks.data.documents import prepare_documents
from tasks.errors import UserError
from tasks.picl.groups import Groups, Sequence, join, line_end

SYMBOLS = ("___", "@@@", "$$$", "###", "***", "+++", "~~~", "^^^", "===", "%%%")
_FUNCTION_WORDS = (
    "a an the of to in on at by for with from as is are was were be been and or but that which who "
    "this these those it its not than then into over under about after before"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
OBJECTIVES = ("next", "masked", "last", "classify")
Pair = tuple[str, str]


def sentences(text: str) -> list[str]:
    """Lines, long ones cut after . ! and ?."""
    found: list = []
    for line in text.splitlines():
        found += re.split(r"(?<=[.!?])\s+", line.strip()) if len(line) > 200 else [line.strip()]
    return [sentence for sentence in found if sentence]


def next_sentence(draw: np.random.Generator, own: list[str], other: list[str]) -> Pair | None:
    """All but the last sentence, and the last."""
    return (" ".join(own[:-1]), own[-1]) if len(own) > 1 else None


def masked_words(draw: np.random.Generator, own: list[str], other: list[str]) -> Pair | None:
    """Words replaced by a symbol, and the words in order."""
    words = " ".join(own).split()
    most = min(20, len(words) // 3)
    if most < 1:
        return None
    chosen = np.sort(draw.choice(len(words), int(draw.integers(1, most + 1)), replace=False))
    symbol = SYMBOLS[int(draw.integers(len(SYMBOLS)))]
    hidden = [words[i] for i in chosen]
    for i in chosen:
        words[i] = symbol
    return " ".join(words), " ".join(hidden)


def last_phrase(draw: np.random.Generator, own: list[str], other: list[str]) -> Pair | None:
    """The text up to its last function word, and what follows."""
    words = " ".join(own).split()
    if len(words) < 2:
        return None
    places = [i for i, word in enumerate(words[:-1]) if word.lower() in FUNCTION_WORDS]
    end = places[-1] + 1 if places else len(words) - 1
    return " ".join(words[:end]), " ".join(words[end:])


def classify(draw: np.random.Generator, own: list[str], other: list[str]) -> Pair | None:
    """Whether the sentences are as they were, in another order, or one of them from elsewhere."""
    if len(own) < 2 or not other:
        return None
    kind = ("original", "shuffled", "mixed")[int(draw.integers(3))]
    given = list(own)
    if kind == "shuffled":
        shift = int(draw.integers(1, len(own)))
        given = own[shift:] + own[:shift]
    elif kind == "mixed":
        given[int(draw.integers(len(own)))] = other[int(draw.integers(len(other)))]
    return " ".join(given), kind


_MAKERS: dict[str, Callable[[np.random.Generator, list[str], list[str]], Pair | None]] = {
    "next": next_sentence,
    "masked": masked_words,
    "last": last_phrase,
    "classify": classify,
}


class SelfSupervised(Groups):
    """See above. sentences: in an example, drawn from 2 to this; sequences: how many are drawn."""

    def __init__(
        self,
        *,
        objectives: list[Literal["next", "masked", "last", "classify"]] | None = None,
        sentences: int = 4,
        examples: int = 16,
        sequences: int = 100_000,
    ):
        self.objectives = list(objectives or OBJECTIVES)
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(f"objectives: {name!r} is none of {', '.join(OBJECTIVES)}")
        for key, value, least in (
            ("sentences", sentences, 2), ("examples", examples, 1), ("sequences", sequences, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{key}: must be at least {least}, got {value}")
        self.sentences, self.examples, self.sequences = sentences, examples, sequences

    def prepare(self, data: TextData, *, context_length: int, seed: int) -> None:
        self.tokenizer, self.context_length, self.seed = data.tokenizer, context_length, seed
        self.line_end = line_end(data.tokenizer)
        self.documents = prepare_documents(data.corpus, data.cache_dir)
        self.rows = data.dataset("train").rows
        self.sequence(0)  # what does not fit shows before training

    def __len__(self) -> int:
        return self.sequences

    def _document(self, draw: np.random.Generator) -> list[str]:
        row = self.rows[int(draw.integers(len(self.rows)))]
        return sentences(next(self.documents.texts(np.array([row]))))

    def sequence(self, number: int) -> Sequence:
        draw = np.random.default_rng((self.seed, 7, number))
        make = _MAKERS[self.objectives[int(draw.integers(len(self.objectives)))]]
        parts: list[np.ndarray] = []
        counted: list[bool | np.ndarray] = []
        total = 0
        for _ in range(8 * self.examples):  # some texts are too short for their objective
            text = self._document(draw)
            size = min(len(text), int(draw.integers(2, self.sentences + 1)))
            start = int(draw.integers(len(text) - size + 1)) if text else 0
            pair = make(draw, text[start : start + size], self._document(draw))
            if pair is None:
                continue
            asked = self.tokenizer.encode(f"Input: {pair[0]} Output:")
            part = np.concatenate((asked, self.tokenizer.encode(f" {pair[1]}"), self.line_end))
            if total + len(part) >= self.context_length:
                if parts:
                    break
                continue
            total += len(part)
            parts.append(part)
            counted.append(np.arange(len(part)) >= len(asked))
            if len(parts) == self.examples:
                break
        if not parts:
            raise UserError(
                f"task.groups: no example of the corpus fits the context of {self.context_length} "
                "tokens; lower task.groups.sentences, or raise model.context_length"
            )
        return join(parts, counted)
