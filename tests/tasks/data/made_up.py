"""Corpora for tests, made on the spot."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.data.corpora import Corpus, Document
from tasks.data.stage import digest
from tasks.data.tokenizers import Bytes

SENTENCE = "der Fluß läuft 水 slowly under old bridges 🎉 and nobody knows where it began"


def texts(number: int, *, seed: int = 0, words: int = 60) -> list[str]:
    """Different documents of a few hundred bytes, not all of them ASCII."""
    draw = random.Random(seed)
    return [
        f"{seed}.{i}: "
        + " ".join(draw.choices(SENTENCE.split(), k=draw.randint(words // 2, words)))
        for i in range(number)
    ]


class Made(Corpus):
    """A corpus of given texts; counts how often it is read."""

    def __init__(self, given: Sequence[str]):
        self.given = list(given)
        self.read = 0

    def documents(self) -> Iterator[Document]:
        self.read += 1
        for i, text in enumerate(self.given):
            yield Document(text, f"made:{i}", {"number": i})

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        return {"corpus": "made", "content": digest(self.given)}


def text_data(cache: Path, given: Sequence[str] | None = None, **settings: Any):
    """Prepared `TextData` over given texts: bytes, windows of 32, fractions of a fifth."""
    from tasks.data.datamodule import TextData  # takes seconds, which subprocesses need not pay

    defaults: dict[str, Any] = {
        "corpus": Made(texts(60) if given is None else given),
        "tokenizer": Bytes(),
        "context_length": 32,
        "batch_size": 4,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "cache_dir": cache,
    }
    data = TextData(**(defaults | settings))
    data.prepare()
    return data
