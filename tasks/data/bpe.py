"""Byte-level byte-pair encoding, learnt from the training split.

Text is cut into words by GPT-2's rule (Radford et al. 2019), each word into its UTF-8 bytes, and the
most frequent neighbouring pair is merged until the vocabulary is full (Sennrich et al. 2016). Any
text can be written, and a token covers exactly the bytes that it is made of.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from tasks.data.tokenizers import Tokenizer
from tasks.data.tokenizers import load_tokenizer as load_tokenizer  # zoo.load looks for it here

EOS = "<|endoftext|>"

# Said aloud, it silences the warning of `tokenizers` when a loader forks workers afterwards.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def byte_of_character() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary, inverted.

    Printable Latin-1 stands for itself; the other bytes, in order, for what follows U+00FF.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [*printable, *(0x100 + i for i in range(len(others)))]
    return {chr(c): byte for c, byte in zip(characters, [*printable, *others])}


def as_transformers(backend: Backend) -> Any:
    """A byte-level backend as a tokenizer of transformers. Text that spells `EOS` stays text."""
    from transformers import PreTrainedTokenizerFast  # takes seconds

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=EOS,
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


class BPE(Tokenizer):
    """Byte-level BPE with `vocab_size` ids: end of document, 256 bytes, and merges.

    A corpus with too few distinct words gives a smaller vocabulary.
    """

    eos = 0

    def __init__(self, *, vocab_size: int = 8192, backend: Backend | None = None):
        """backend: a trained one; without it the tokenizer must be trained."""
        if not 257 <= vocab_size <= 1 << 24:
            raise ValueError(f"vocab_size: must be in [257, {1 << 24}], got {vocab_size}")
        self.vocab_size = vocab_size
        self._backend = backend
        if backend is not None:
            # A document that spells "<|endoftext|>" has not ended.
            backend.encode_special_tokens = True
            self.vocab_size = backend.get_vocab_size()
            byte_of = byte_of_character()
            names = sorted(backend.get_vocab().items(), key=lambda item: item[1])
            self._bytes = [bytes(byte_of[c] for c in name) if i else b"" for name, i in names]

    @property
    def trained(self) -> bool:
        return self._backend is not None

    def train(self, texts: Iterable[str]) -> "BPE":
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return BPE(vocab_size=self.vocab_size, backend=backend)

    def _ready(self) -> Backend:
        if self._backend is None:
            raise RuntimeError(
                "BPE: not trained yet; use the tokenizer of the data: data.tokenizer"
            )
        return self._backend

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._ready().encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        self._ready()
        return b"".join(self._bytes[int(i)] for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        self._ready()
        return np.array([len(b) for b in self._bytes], dtype=np.uint32)

    def to_transformers(self) -> Any:
        return as_transformers(Backend.from_str(self._ready().to_str()))

    @property
    def fingerprint(self) -> dict[str, Any]:
        if self._backend is None:
            return {"tokenizer": "bpe", "vocab_size": self.vocab_size, "format": 1}
        content = hashlib.blake2b(self._backend.to_str().encode(), digest_size=16)
        return {"tokenizer": "bpe", "content": content.hexdigest()}

    def _save(self, folder: Path) -> dict[str, Any]:
        self._ready().save(str(folder / "tokenizer.json"))
        return {}

    @classmethod
    def _load(cls, folder: Path, **state: Any) -> "BPE":
        return cls(backend=Backend.from_file(str(folder / "tokenizer.json")))
