"""A vocabulary of symbols that stand for nothing: the tokens of made-up tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.tokenizers import Tokenizer


class Symbols(Tokenizer):
    """Each id has a name; text is names with spaces between."""

    def __init__(self, *, names: Sequence[str]):
        self.names = list(names)
        self.vocab_size = len(self.names)
        self._ids = {name: i for i, name in enumerate(self.names)}

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([self._ids[w] for w in t.split()], dtype=self.dtype) for t in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join(self.names[int(i)] for i in ids)

    def token_bytes(self) -> np.ndarray:
        return np.ones(self.vocab_size, dtype=np.uint8)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"tokenizer": "symbols", "names": self.names}

    def _save(self, folder: Path) -> dict[str, Any]:
        return {"names": self.names}

    @classmethod
    def _load(cls, folder: Path, **state: Any) -> "Symbols":
        return cls(**state)
