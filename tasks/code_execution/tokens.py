"""The tokens of programs and traces: a small vocabulary of our own, and UniXcoder's with 211 more.

Both know the format's special tokens (formats.SPECIAL_TOKENS) and UniXcoder's own (CONTROL), each as
one id, and give back exactly the text that they were given.

`Words`, for models that start from nothing, keeps what must be *copied* short and alike wherever it
stands. Text is cut at its single spaces; a frequent word of the programs (a keyword, an operator, a
common name) is one id, and any other is spelled:

    total = 1234        total | = | ▁12 34             digits in pairs from the right
    s = 'cab'           s | = | ▁' c a b '             letters one by one, UTF-8 beyond ASCII
    s : cab             s | : | ▁c a b

▁ marks an id that begins a word; the same piece inside a word is another id.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.code_execution.datasets.sources import Unusable, normalise
from tasks.code_execution.formats import SPECIAL_TOKENS
from tasks.code_execution.lexer import tokenize
from tasks.data.huggingface import HuggingFace
from tasks.data.tokenizers import Tokenizer
from tasks.data.tokenizers import load_tokenizer as load_tokenizer

CONTROL = ("<s>", "<pad>", "</s>", "<encoder-decoder>", "<encoder-only>", "<mask0>")
_PIECES = re.compile(r"[0-9]+|[^0-9]")
_WORD = re.compile(r"[A-Za-z_]\w+|[^\w\s'\"<][^\w\s'\"]+|<[^\w\s'\"]*")


class TraceTokens(Tokenizer):
    """What the task needs of a tokenizer beyond text to ids: the ids of tokens by name."""

    def id(self, token: str) -> int:
        """The id of a special or control token."""
        raise NotImplementedError

    def forms(self, token: str) -> list[int]:
        """Every id that spells this token where it stands between spaces."""
        raise NotImplementedError

    def code(self, program: str) -> str:
        """A program as an encoder reads it, without comments and line markers."""
        return " ".join(token for token in tokenize(program) if token not in SPECIAL_TOKENS)


class Words(TraceTokens):
    """Special tokens, bytes, pairs of digits, and the most frequent words of the training programs.

    vocab_size: at most; fewer where the programs have fewer words.
    """

    def __init__(self, *, vocab_size: int = 1200, words: Sequence[str] | None = None):
        """words: those of a trained one; without them the tokenizer must be trained."""
        self._fixed = _fixed_pieces()
        if vocab_size < len(self._fixed):
            raise ValueError(f"vocab_size: must be at least {len(self._fixed)}, got {vocab_size}")
        self._words = None if words is None else list(words)
        self.vocab_size = vocab_size
        self.eos = CONTROL.index("</s>")
        pieces = [*self._fixed, *((word, True) for word in self._words or ())]
        self._id = {piece: i for i, piece in enumerate(pieces)}
        self._text = [_bytes_of(i, text, begins) for i, (text, begins) in enumerate(pieces)]
        self._known = {text: [self._id[text, True]] for text in (*SPECIAL_TOKENS, *(words or ()))}
        if self._words is not None:
            self.vocab_size = len(pieces)

    @property
    def trained(self) -> bool:
        return self._words is not None

    def train(self, texts: Iterable[str]) -> "Words":
        """From the programs' source texts."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(word for word in text.split(" ") if _WORD.fullmatch(word))
        for token in SPECIAL_TOKENS:
            counts.pop(token, None)
        room = self.vocab_size - len(self._fixed)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return Words(vocab_size=self.vocab_size, words=[word for word, _ in ranked[:room]])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._words is None:
            raise RuntimeError("Words: not trained yet; use the tokenizer of the data")
        return [
            np.array([i for word in text.split(" ") for i in self._word(word)], dtype=self.dtype)
            for text in texts
        ]

    def _word(self, word: str) -> list[int]:
        known = self._known.get(word)
        if known is None:
            known = [self._id[piece] for piece in _spell(word)]
            if len(self._known) < 1 << 16:
                self._known[word] = known
        return known

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        data = b"".join(self._text[int(i)] for i in ids)
        return data.removeprefix(b" ").decode("utf-8", errors="replace")

    def id(self, token: str) -> int:
        return self._id[token, True]

    def forms(self, token: str) -> list[int]:
        return [self._id[piece] for piece in [(token, True)] if piece in self._id]

    @property
    def fingerprint(self) -> dict[str, Any]:
        if self._words is None:
            return {"tokenizer": "words", "vocab_size": self.vocab_size, "format": 1}
        content = hashlib.blake2b(json.dumps(self._words).encode(), digest_size=16).hexdigest()
        return {"tokenizer": "words", "content": content, "format": 1}

    def _save(self, folder: Path) -> dict[str, Any]:
        return {"words": self._words}

    @classmethod
    def _load(cls, folder: Path, **state: Any) -> "Words":
        return cls(vocab_size=1 << 24, words=state["words"])


class UniXcoder(HuggingFace, TraceTokens):
    """The tokenizer of a UniXcoder or CodeExecutor checkpoint, with the special tokens that it lacks.

    name: on the Hub, or a folder. New tokens take the ids after the vocabulary, in the order of
    formats.SPECIAL_TOKENS: 51,416 and 211 make CodeExecutor's 51,627.
    """

    def __init__(self, *, name: str = "microsoft/unixcoder-base", revision: str | None = None):
        super().__init__(name=name, revision=revision)
        special = [t for t in (*CONTROL, *SPECIAL_TOKENS) if t not in self._tokenizer.get_vocab()]
        self._tokenizer.add_tokens(special, special_tokens=True)
        vocabulary = self._tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self._ids = {token: vocabulary[token] for token in (*CONTROL, *SPECIAL_TOKENS)}
        self._tokens = {i: token for token, i in self._ids.items()}
        self._cut = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
        self.eos = self._ids["</s>"]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """A special token takes the space on either side of it with it, as in the published code."""
        parts = [(self._cut.split(text), self._cut.findall(text)) for text in texts]
        plain = iter(super().encode_batch([p for between, _ in parts for p in _stripped(between)]))
        found = []
        for between, tags in parts:
            ids: list[int] = []
            for i in range(len(between)):
                ids += next(plain).tolist() + ([self._ids[tags[i]]] if i < len(tags) else [])
            found.append(np.array(ids, dtype=self.dtype))
        return found

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        parts: list[str] = []
        plain: list[int] = []
        for i in [*(int(i) for i in ids), None]:
            if i is not None and i not in self._tokens:
                plain.append(i)
                continue
            if plain:
                parts.append(super().decode(plain))
                plain = []
            if i is not None and self._tokens[i] not in CONTROL:
                parts.append(self._tokens[i])
        return " ".join(parts)

    def code(self, program: str) -> str:
        """Comments and docstrings taken out, all white space one space, as published."""
        try:
            return " ".join(normalise(program).split())
        except Unusable:
            return " ".join(program.split())

    def id(self, token: str) -> int:
        return self._ids[token]

    def forms(self, token: str) -> list[int]:
        """With a space before it and without: a table's first colon has one."""
        if token in self._ids:
            return [self._ids[token]]
        spelled = (super(UniXcoder, self).encode_batch([text])[0] for text in (token, f"x {token}"))
        return sorted({int(ids[-1]) for ids in spelled if len(ids) in (1, 2)})

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint, "special": len(SPECIAL_TOKENS), "format": 1}


def _fixed_pieces() -> list[tuple[str, bool]]:
    """(text, whether it begins a word) of every piece that needs no training.

    A byte is named by the character of its number; the empty piece begins an empty word.
    """
    digits = [f"{n:02d}" for n in range(100)]
    spelled = [chr(byte) for byte in range(256)] + digits
    return [
        *((token, True) for token in (*CONTROL, *SPECIAL_TOKENS)),
        ("", True),
        *((piece, begins) for begins in (True, False) for piece in spelled),
    ]


def _bytes_of(i: int, text: str, begins: bool) -> bytes:
    if i < len(CONTROL):
        return b""
    data = text.encode("latin-1") if len(text) == 1 else text.encode()
    return b" " + data if begins else data


def _spell(word: str) -> list[tuple[str, bool]]:
    pieces: list[str] = []
    for match in _PIECES.findall(word):
        if match[0] in "0123456789":
            first = len(match) % 2
            pieces += [match[:1]] * first
            pieces += [match[i : i + 2] for i in range(first, len(match), 2)]
        else:
            pieces += [chr(byte) for byte in match.encode("utf-8", errors="surrogatepass")]
    return [(piece, i == 0) for i, piece in enumerate(pieces or [""])]


def _stripped(between: list[str]) -> list[str]:
    """The text between special tokens, without the one space that parts it from each."""
    last = len(between) - 1
    cut = [text if i == 0 else text.removeprefix(" ") for i, text in enumerate(between)]
    return [text if i == last else text.removesuffix(" ") for i, text in enumerate(cut)]
