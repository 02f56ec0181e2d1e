"""Any tokenizer of the Hugging Face Hub, or of a folder.

Where the vocabulary is byte-level (GPT-2 and its kin), a token covers the bytes it is made of.
Elsewhere it covers the text from where it begins to where the next one begins, so that the spans of
a document add up to its bytes, dropped spaces included. A tokenizer that loses text (lower-casing,
unknown words) needs fewer bits for what it keeps: its bits per byte flatter the model.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from tasks.data.bpe import byte_of_character
from tasks.data.hub_access import hub_commit
from tasks.data.tokenizers import Tokenizer
from tasks.data.tokenizers import load_tokenizer as load_tokenizer  # zoo.load looks for it here
from tasks.errors import UserError


class HuggingFace(Tokenizer):
    """name: on the Hub, a folder (`save_pretrained`), or a `tokenizer.json`. revision: of the Hub.

    `eos` is the tokenizer's end-of-text id, else its separator, else None. Text that spells a special
    token is read as text (but a unigram vocabulary, T5's, has no other spelling of "</s>").
    Raises UserError for one that cannot be loaded.
    """

    def __init__(self, *, name: str, revision: str | None = None):
        self.name = name
        self._tokenizer = _from_transformers(name, revision)
        vocabulary = self._tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        eos = self._tokenizer.eos_token_id
        self.eos = self._tokenizer.sep_token_id if eos is None else eos
        self._backend = None
        if self._tokenizer.is_fast:
            self._backend = Backend.from_str(self._tokenizer.backend_tokenizer.to_str())
            self._backend.no_padding()
            self._backend.no_truncation()
            self._backend.encode_special_tokens = True
        self._table = self._byte_level(vocabulary)

    def _byte_level(self, vocabulary: dict[str, int]) -> np.ndarray | None:
        """The `token_bytes` of a byte-level vocabulary, None for others."""
        if self._backend is None:
            return None
        spec = json.loads(self._backend.to_str())
        steps = [spec["pre_tokenizer"], *((spec["pre_tokenizer"] or {}).get("pretokenizers") or [])]
        byte_level = [s for s in steps if s and s["type"] == "ByteLevel"]
        if spec["normalizer"] or not byte_level or any(s["add_prefix_space"] for s in byte_level):
            return None
        added = {token["id"]: token for token in spec["added_tokens"]}
        known = byte_of_character()
        table = np.zeros(self.vocab_size, dtype=np.uint32)
        for text, i in vocabulary.items():
            if i in added:
                table[i] = 0 if added[i]["special"] else len(text.encode())
            elif all(character in known for character in text):
                table[i] = len(text)
            else:
                return None
        if self.eos is not None:
            table[self.eos] = 0
        return table

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._backend is None:
            return [self._slowly(text) for text in texts]
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def _slowly(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return np.array(ids, dtype=self.dtype)

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        if self._backend is None:  # it does not say where its tokens are: all alike, then
            return [
                (ids, _evenly(text, len(ids))) for text, ids in zip(texts, map(self._slowly, texts))
            ]
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(e.ids, dtype=self.dtype), _spans(text, e.offsets))
            for text, e in zip(texts, encodings)
        ]

    def token_bytes(self) -> np.ndarray | None:
        return self._table

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def to_transformers(self) -> Any:
        return self._tokenizer

    @property
    def fingerprint(self) -> dict[str, Any]:
        if self._backend is None:
            spec = json.dumps([str(type(self._tokenizer)), self._tokenizer.get_vocab()])
        else:
            spec = self._backend.to_str()
        content = hashlib.blake2b(spec.encode(), digest_size=16).hexdigest()
        return {"tokenizer": "huggingface", "content": content, "eos": self.eos}

    def _save(self, folder: Path) -> dict[str, Any]:
        self._tokenizer.save_pretrained(str(folder))
        return {}

    @classmethod
    def _load(cls, folder: Path, **state: Any) -> "HuggingFace":
        return cls(name=str(folder))


def _from_transformers(name: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # takes seconds

    local = os.path.exists(name)
    commit = None if local else hub_commit("tokenizer.name", name, "model", revision)
    try:
        if os.path.isfile(name):
            return PreTrainedTokenizerFast(tokenizer_file=name)
        return AutoTokenizer.from_pretrained(
            name, revision=commit or revision or "main", local_files_only=commit is None
        )
    except Exception as error:  # a dozen kinds, none of which the person can tell apart
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"tokenizer.name={name}: no tokenizer could be loaded ({reason}); give a name on "
            "huggingface.co and a network to reach it, or a folder or tokenizer.json on this machine"
        ) from error


def _spans(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Bytes from where each token begins to where the next does; the first begins at 0."""
    code = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
    place = np.concatenate(([0], np.cumsum(width)))
    begins = np.maximum.accumulate([start for start, _ in offsets] or [0])
    edges = np.append(place[begins], place[-1])
    edges[0] = 0
    return np.diff(edges)[: len(offsets)].astype(np.uint32)


def _evenly(text: str, parts: int) -> np.ndarray:
    size = len(text.encode("utf-8"))
    return np.diff(np.arange(parts + 1) * size // max(parts, 1)).astype(np.uint32)
