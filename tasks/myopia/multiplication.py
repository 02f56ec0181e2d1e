"""Multiplication with filler zeros (§4.3): room to compute in, for a model that plans ahead.

    x*y=z      every number least significant digit first; x and y zero-padded to `padding` digits, z to
               twice `digits`; digit counts of x and y uniform in 1..digits, values uniform below 10^count

The loss is on z alone. Published: 5 digits, padding 5 or 10: padding 10 took the vanilla model from 36% to
99% exact at 5x5 digits and the myopic one from 38% to 6%.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.packing import IGNORED
from tasks.data.tokenizers import Tokenizer
from tasks.errors import UserError
from tasks.myopia.fresh import FreshData, uniform

SYMBOLS = "0123456789*="


class Symbols(Tokenizer):
    """One id a character of `0123456789*=`; text may have spaces between them."""

    vocab_size = len(SYMBOLS)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            return [
                np.array([SYMBOLS.index(c) for c in text if not c.isspace()], dtype=self.dtype)
                for text in texts
            ]
        except ValueError as error:
            raise UserError(f"tokenizer: only {SYMBOLS} have an id, not all of {texts}") from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(SYMBOLS[i] for i in ids)

    def token_bytes(self) -> np.ndarray:
        return np.ones(self.vocab_size, dtype=np.uint8)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"symbols": SYMBOLS}


class MultiplicationData(FreshData):
    """Batches of `tokens_BT` and `targets_BT` (B, T), `bytes` of the answers, and `digits_B2`, how many
    digits x and y have.

    context_length: 2 padding + 2 digits + 1. digits: at most 9, so that a product fits 64 bits. padding:
    of x and y, at least `digits`; None: what context_length leaves room for.
    """

    def __init__(
        self,
        *,
        context_length: int,
        batch_size: int,
        digits: int = 5,
        padding: int | None = None,
        seed: int = 0,
        eval_samples: int = 2048,
        eval_batch_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        if not 1 <= digits <= 9:
            raise ValueError(f"digits: must be in 1..9, got {digits}")
        padding = (context_length - 2 * digits - 1) // 2 if padding is None else padding
        if padding < digits or context_length != length(digits, padding):
            least = length(digits, max(padding, digits))
            raise ValueError(
                f"context_length: {context_length} does not hold digits={digits} with "
                f"padding={padding}; give model.context_length={least} (2 padding + 2 digits + 1, "
                "padding at least digits)"
            )
        super().__init__(
            context_length=context_length,
            batch_size=batch_size,
            seed=seed,
            eval_samples=eval_samples,
            eval_batch_size=eval_batch_size,
            tokenizer=Symbols() if tokenizer is None else tokenizer,
        )
        self.digits, self.padding = digits, padding

    def draw(self, split: str, indices: np.ndarray) -> dict[str, Tensor]:
        share = uniform(self.bits(split, indices, 4))
        counts = 1 + np.floor(share[:, :2] * self.digits).astype(np.int64)
        factors = np.floor(share[:, 2:] * 10.0**counts).astype(np.int64)
        x, y = (_least_first(factors[:, i], self.padding) for i in (0, 1))
        z = _least_first(factors.prod(1), 2 * self.digits)
        star, equals = (np.full((len(x), 1), SYMBOLS.index(c)) for c in "*=")
        text = torch.from_numpy(np.concatenate((x, star, y, equals, z), 1))
        targets = text[:, 1:].clone()
        targets[:, : -2 * self.digits] = IGNORED
        return {
            "tokens_BT": text[:, :-1],
            "targets_BT": targets,
            "bytes": torch.tensor(z.size),
            "digits_B2": torch.from_numpy(counts),
        }


def length(digits: int, padding: int) -> int:
    """Tokens that a model reads: all but the last digit of the answer."""
    return 2 * padding + 2 * digits + 1


def _least_first(number: np.ndarray, width: int) -> np.ndarray:
    """(N,) as (N, width) digits."""
    return number[:, None] // 10 ** np.arange(width) % 10
