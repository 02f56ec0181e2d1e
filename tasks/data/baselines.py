"""What a model has to beat: the same test text, in bits per byte, without a neural network.

    uniform   log₂ V bits a token
    unigram   p(b) = (c(b) + α) / (N + α V)
    bigram    p(b | a) = (c(a, b) + β p(b)) / (c(a) + β)        (Dirichlet prior; MacKay & Peto 1995)
    xz        LZMA at preset 9e over the test text alone: what a good compressor needs

Counts c are of the training split, α and β are chosen on the validation split, and each is judged on
exactly the tokens that a model is: bits = -Σ log₂ p over all targets, divided by the bytes of text
under them. xz reads the documents of the test split with a byte between them, and does not depend
on the tokenizer.
"""

import json
import lzma
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tasks.data.packing import PackedDataset
from tasks.data.stage import stage

_FORMAT = 2
_CHUNK = 1 << 21
_FIT_TOKENS = 1 << 26  # training tokens that are counted at most, spread evenly
_XZ_BYTES = 1 << 24  # test text that xz reads at most
_DENSE = 1 << 22  # vocabularies whose square is below this are counted in a table
_ALPHAS = (0.01, 0.1, 0.5, 1.0)
_BETAS = tuple(4.0**k for k in range(-2, 8))


def baselines(
    train: PackedDataset,
    val: PackedDataset | None,
    test: PackedDataset,
    texts: Iterable[str],
    cache_dir: Path,
) -> dict[str, float]:
    """The yardsticks of one split, computed once and kept.

    texts: the documents of `test`. Without a validation split, α = β = 1.
    """
    key = {
        "format": _FORMAT,
        "tokens": test.path.parent.name,
        "max_tokens": test.max_tokens,
        "cross_documents": test.cross_documents,
    }

    def build(folder: Path) -> None:
        bits = {"uniform": test.num_targets() * math.log2(test.vocab_size)}
        bits["unigram"], bits["bigram"] = count_models(train, val, test)
        found = {name: total / test.num_bytes() for name, total in bits.items()}
        found["xz"] = xz_bits_per_byte(texts)
        named = {f"baseline/{name}_bits_per_byte": value for name, value in found.items()}
        (folder / "baselines.json").write_text(json.dumps(named))

    return json.loads((stage(cache_dir, "baselines", key, build) / "baselines.json").read_text())


def xz_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits that `xz -9e` needs for a byte of these texts; of the first 16 MiB where there is more."""
    parts: list[bytes] = []
    size = 0
    for text in texts:
        parts.append(text.encode("utf-8"))
        size += len(parts[-1])
        if size >= _XZ_BYTES:
            break
    data = b"\xff".join(parts)
    # A dictionary as large as the text finds all that the preset's 64 MiB would, in less memory.
    dictionary = max(1 << 12, 1 << (len(data) - 1).bit_length())
    preset = 9 | lzma.PRESET_EXTREME
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
    return 8 * len(lzma.compress(data, filters=[lzma2])) / size


def count_models(
    train: PackedDataset, val: PackedDataset | None, test: PackedDataset
) -> tuple[float, float]:
    """Bits of all test targets under the unigram and under the bigram."""
    asked = [_pairs_asked(split) for split in (test, val) if split is not None]
    codes = np.unique(np.concatenate([pairs for pairs, _ in asked]))
    singles, doubles = _count(train, codes)
    judges = [_Judge(*pairs, codes, singles, doubles) for pairs in asked]
    alpha = beta = 1.0
    if val is not None:
        alpha = min(_ALPHAS, key=judges[1].unigram_bits)
        beta = min(_BETAS, key=lambda b: judges[1].bigram_bits(alpha, b))
    return judges[0].unigram_bits(alpha), judges[0].bigram_bits(alpha, beta)


class _Judge:
    """The bits of a split's targets, from its distinct (previous, target) pairs.

    pairs: their codes; times: how often each is asked for; codes, doubles: counts of pairs in the
    training text; singles: counts of tokens (V,).
    """

    def __init__(
        self,
        pairs: np.ndarray,
        times: np.ndarray,
        codes: np.ndarray,
        singles: np.ndarray,
        doubles: np.ndarray,
    ):
        self.times = times
        self.singles = singles
        self.before, self.after = np.divmod(pairs, len(singles))
        self.seen = doubles[np.searchsorted(codes, pairs)]

    def _unigram(self, alpha: float) -> np.ndarray:
        p = (self.singles + alpha) / (self.singles.sum() + alpha * len(self.singles))
        return p[self.after]

    def unigram_bits(self, alpha: float) -> float:
        return float(-(self.times * np.log2(self._unigram(alpha))).sum())

    def bigram_bits(self, alpha: float, beta: float) -> float:
        p = (self.seen + beta * self._unigram(alpha)) / (self.singles[self.before] + beta)
        return float(-(self.times * np.log2(p)).sum())


def _pairs_asked(dataset: PackedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the (previous, target) pairs of a split, sorted, and how often each is asked for."""
    V = dataset.vocab_size
    pairs = (_code(dataset.tokens[p - 1], dataset.tokens[p], V) for p in dataset.targets())
    if V * V <= _DENSE:
        table = np.zeros(V * V, dtype=np.int64)
        for part in pairs:
            table += np.bincount(part, minlength=V * V)
        return table.nonzero()[0], table[table > 0]
    codes, times = zip(*(np.unique(part, return_counts=True) for part in pairs))
    merged, which = np.unique(np.concatenate(codes), return_inverse=True)
    return merged, np.bincount(which, weights=np.concatenate(times))


def _code(before: np.ndarray, after: np.ndarray, V: int) -> np.ndarray:
    return before.astype(np.int64) * V + after


def _count(train: PackedDataset, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each token has a successor (V,), and each of the sorted pair `codes` occurs."""
    tokens, V = train.tokens, train.vocab_size
    dense = V * V <= _DENSE
    singles = np.zeros(V, dtype=np.int64)
    doubles = np.zeros(V * V if dense else len(codes), dtype=np.int64)
    starts = np.arange(0, len(tokens) - 1, _CHUNK)
    most = _FIT_TOKENS // _CHUNK
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]
    for start in starts:
        part = tokens[start : start + _CHUNK + 1]
        singles += np.bincount(part[:-1], minlength=V)
        pairs = _code(part[:-1], part[1:], V)
        if dense:
            doubles += np.bincount(pairs, minlength=V * V)
        else:
            place = np.minimum(np.searchsorted(codes, pairs), len(codes) - 1)
            doubles += np.bincount(place[codes[place] == pairs], minlength=len(codes))
        train.forget()
    return singles, doubles[codes] if dense else doubles
