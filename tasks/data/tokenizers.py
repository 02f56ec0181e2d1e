"""Text to integers and back.

A tokenizer that has an end-of-document id puts it *before* each document, where it is what the
first token is predicted from, as in GPT-2's packing: the tokens of a split are

    eos d₁₁ d₁₂ … eos d₂₁ d₂₂ … eos …

Every byte of text is then covered by a predicted token, and the loss counts where documents end.
Bits per byte = (nats of all predicted tokens) / (ln 2 · bytes of the text they cover) is exact and
compares between tokenizers; `eos` itself covers none.
"""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError

_FILE = "zoo_tokenizer.json"


class Tokenizer(ABC):
    """What a tokenizer must be able to do.

    vocab_size: ids are in [0, vocab_size). eos: the id that stands between documents, or None.
    """

    vocab_size: int
    eos: int | None = None

    @property
    def trained(self) -> bool:
        """False while `train` must come before anything else."""
        return True

    def train(self, texts: Iterable[str]) -> "Tokenizer":
        """The tokenizer that training text makes of this one; most have nothing to learn."""
        return self

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, of type `dtype`; no `eos` is put among them."""

    def encode(self, text: str) -> np.ndarray:
        """Ids of one text, without `eos`."""
        return self.encode_batch([text])[0].copy()  # writable, and its own

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids; broken UTF-8 becomes U+FFFD and `eos` nothing."""

    def token_bytes(self) -> np.ndarray | None:
        """Bytes of text that each id covers (vocab_size,), or None where that depends on the text."""
        return None

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids of each text with the bytes of text that each covers, which add up to the text's own;
        asked for only where `token_bytes` is None."""
        raise NotImplementedError

    def to_transformers(self) -> Any:
        """The same tokenizer as one of transformers; None where it has none."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the ids depend on, JSON-like; before training, what training depends on."""

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    def save(self, folder: str | Path) -> None:
        """Writes all that `load_tokenizer` needs into `folder`, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        state = {"_target_": target, **self._save(folder)}
        (folder / _FILE).write_text(json.dumps(state, indent=1))

    def _save(self, folder: Path) -> dict[str, Any]:
        """Writes files; returns what `_load` gets besides the folder."""
        return {}

    @classmethod
    def _load(cls, folder: Path, **state: Any) -> "Tokenizer":
        return cls()


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote; needs neither the cache nor a network.

    Raises UserError where there is none.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no saved tokenizer ({_FILE} is missing)")
    state = json.loads(path.read_text())
    module, _, name = state.pop("_target_").rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, Tokenizer)):
        raise UserError(f"{path}: {module}.{name} is not a tokenizer")
    return cls._load(Path(folder), **state)


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8.

    `eos` is byte 0xFF, which UTF-8 never uses, so the vocabulary stays 256.
    """

    vocab_size = 256
    eos = 0xFF

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        data = np.asarray(ids, dtype=np.uint8).tobytes()
        return data.replace(b"\xff", b"").decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        lengths = np.ones(256, dtype=np.uint8)
        lengths[self.eos] = 0
        return lengths

    def to_transformers(self) -> Any:
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers

        from tasks.data.bpe import EOS, as_transformers, byte_of_character

        vocabulary = {name: byte for name, byte in byte_of_character().items() if byte != self.eos}
        backend = Backend(models.BPE({**vocabulary, EOS: self.eos}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
        backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        return as_transformers(backend)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"tokenizer": "bytes"}
