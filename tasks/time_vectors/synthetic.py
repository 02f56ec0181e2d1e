"""A dated corpus made up on the spot: words that come and go with the years, topics with the months.

    topic of a sentence      z ~ softmax(popularity(z, year) + season(z, month))
    its sequence of ideas    a chain of z's own: each idea is followed by one of a few
    the word of an idea      the new one with probability logistic((date - change) / pace), else the old

The popularity of a topic falls with the distance from its own best year; every second topic has a
best month, the others none. Ideas change their word at moments spread over the years. With `drift` or
`season` 0 the text is the same at all times in that respect: the control that finds nothing.

Everything is drawn from the seed. A document is a few sentences of one month.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.corpora import Corpus, Document

_ONSETS = [
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "st",
    "tr",
    "pl",
    "kr",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ou"]
_SECTIONS = ["home", "world", "trade", "sport"]  # of the paper: each has its own topics
_GLUE = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "with", "as", "was", "on"]


class SyntheticNews(Corpus):
    """`documents_per_month` documents for each month from `first_year` to `last_year`.

    drift: how strongly the years show, 0 not at all. season: the same of the months.
    topics, ideas: how many there are, ideas in each topic.
    """

    def __init__(
        self,
        *,
        first_year: int = 2010,
        last_year: int = 2016,
        documents_per_month: int = 250,
        drift: float = 1.0,
        season: float = 0.0,
        topics: int = 24,
        ideas: int = 40,
        seed: int = 0,
    ):
        for name, value, least in (
            ("documents_per_month", documents_per_month, 1),
            ("topics", topics, 2),
            ("ideas", ideas, 4),
        ):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if not 1900 <= first_year <= last_year <= 2099:
            raise ValueError(f"first_year: {first_year} to last_year {last_year} is no range")
        if drift < 0 or season < 0:
            raise ValueError(f"drift: {drift} and season {season} must be at least 0")
        self.settings = {
            "first_year": first_year,
            "last_year": last_year,
            "documents_per_month": documents_per_month,
            "drift": drift,
            "season": season,
            "topics": topics,
            "ideas": ideas,
            "seed": seed,
        }
        self.first_year, self.last_year = first_year, last_year
        self.documents_per_month = documents_per_month
        self.drift, self.season = drift, season
        self.topics, self.ideas, self.seed = topics, ideas, seed

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        return {"corpus": "synthetic news", "version": 2, **self.settings}

    def documents(self) -> Iterator[Document]:
        world = _World(self)
        for year in range(self.first_year, self.last_year + 1):
            for month in range(1, 13):
                draw = np.random.default_rng((self.seed, year, month))
                for number in range(self.documents_per_month):
                    text, topic = world.document(year + (month - 1) / 12, month, draw)
                    meta = {
                        "date": f"{year}-{month:02d}-15",
                        "topic": f"topic{topic:02d}",
                        "section": _SECTIONS[topic % len(_SECTIONS)],
                    }
                    yield Document(text, f"{year}-{month:02d}:{number}", meta)


class _World:
    """What is the same at all times: topics, ideas, their words, and when they change."""

    def __init__(self, corpus: SyntheticNews):
        draw = np.random.default_rng(corpus.seed)
        Z, K = corpus.topics, corpus.ideas
        self.corpus, years = corpus, corpus.last_year - corpus.first_year + 1
        words = _words(2 * Z * K, draw)
        self.old, self.new = (np.array(half).reshape(Z, K) for half in (words[::2], words[1::2]))
        self.change = draw.uniform(
            corpus.first_year - 0.3 * years, corpus.last_year + 0.3 * years, (Z, K)
        )
        self.pace = 0.08 * years
        # Best years evenly spread and in no order, so that a topic's number says nothing.
        self.peak = draw.permutation(np.linspace(corpus.first_year, corpus.last_year + 1, Z))
        self.width = 0.35 * years
        self.best_month = draw.permutation(np.arange(Z)) % 12 + 1
        self.seasonal = draw.permutation(Z) % 2 == 0
        self.next = draw.integers(0, K, (Z, K, 4))

    def topics_at(self, date: float, month: int) -> np.ndarray:
        """Shares of the topics."""
        corpus = self.corpus
        score = -corpus.drift * ((date - self.peak) / self.width) ** 2 / 2
        phase = np.cos(2 * math.pi * (month - self.best_month) / 12)
        score = score + corpus.season * np.where(self.seasonal, phase, 0.0)
        shares = np.exp(score - score.max())
        return shares / shares.sum()

    def document(self, date: float, month: int, draw: np.random.Generator) -> tuple[str, int]:
        """Text, and the topic of its first sentence, which most others share."""
        shares = self.topics_at(date, month)
        main = int(draw.choice(len(shares), p=shares))
        sentences = []
        for _ in range(int(draw.integers(3, 7))):
            z = main if draw.random() < 0.7 else int(draw.choice(len(shares), p=shares))
            sentences.append(self._sentence(z, date, draw))
        return " ".join(sentences), main

    def _sentence(self, z: int, date: float, draw: np.random.Generator) -> str:
        length = int(draw.integers(5, 10))
        idea = int(draw.integers(self.old.shape[1]))
        steps, chances, glue = draw.integers(0, 4, length), draw.random(length), draw.random(length)
        words = []
        for i in range(length):
            lean = self.corpus.drift * (date - self.change[z, idea]) / self.pace
            new = chances[i] < (1 / (1 + math.exp(-max(-30, min(30, lean)))))
            words.append(str((self.new if new else self.old)[z, idea]))
            if glue[i] < 0.4:
                words.append(_GLUE[int(glue[i] / 0.4 * len(_GLUE))])
            idea = int(self.next[z, idea, steps[i]])
        return " ".join(words) + "."


def _words(count: int, draw: np.random.Generator) -> list[str]:
    """Different made-up words of two or three syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = (
            _ONSETS[draw.integers(len(_ONSETS))] + _VOWELS[draw.integers(len(_VOWELS))]
            for _ in range(int(draw.integers(2, 4)))
        )
        found["".join(syllables)] = None
    return [str(word) for word in draw.permutation(list(found))]
