"""A task in which preparing pays (§3.1): work that a position has no use for and later ones do.

    x_n ~ N(0, 1), z_n ~ Bernoulli(p);   input (x_n, z_n)
    y_n = z_n sum_{i=s}^{s+w-1} sin(b x_{n-i}) + (1 - z_n) x_n       terms before the start are 0

w the window, b the frequency, s the shift: with s = 1 sin(b x_n) is of no use at n itself, with s = 0 it
is (the control in which nothing needs to be prepared). Published: w = 10, b = 10, s = 1, length 64.
"""

import numpy as np
import torch
from torch import Tensor

from tasks.data.tokenizers import Tokenizer
from tasks.myopia.fresh import FreshData, normal, uniform


class PreCachingData(FreshData):
    """Batches of `tokens_BT` (B, T, 2) float32, which are no tokens, and `targets_BT` (B, T).

    p: how often the sum is asked for. window, frequency, shift: w, b and s above.
    """

    def __init__(
        self,
        *,
        context_length: int,
        batch_size: int,
        p: float = 1.0,
        window: int = 10,
        frequency: float = 10.0,
        shift: int = 1,
        seed: int = 0,
        eval_samples: int = 2048,
        eval_batch_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__(
            context_length=context_length,
            batch_size=batch_size,
            seed=seed,
            eval_samples=eval_samples,
            eval_batch_size=eval_batch_size,
            tokenizer=tokenizer,
        )
        if not 0 < p <= 1:
            raise ValueError(f"p: must be in (0, 1], got {p}")
        if window < 1:
            raise ValueError(f"window: must be at least 1, got {window}")
        if shift < 0:
            raise ValueError(f"shift: must be at least 0, got {shift}")
        self.p, self.window, self.frequency, self.shift = p, window, frequency, shift

    def draw(self, split: str, indices: np.ndarray) -> dict[str, Tensor]:
        T = self.context_length
        bits = self.bits(split, indices, 3 * T)
        x = torch.from_numpy(normal(bits[:, : 2 * T]))
        z = torch.from_numpy(uniform(bits[:, 2 * T :]) < self.p)
        y = torch.where(z, self.sums(x), x)
        return {"tokens_BT": torch.stack((x, z.double()), -1).float(), "targets_BT": y.float()}

    def sums(self, x_BT: Tensor) -> Tensor:
        """The window sums (B, T) that z asks for."""
        waves = (self.frequency * x_BT).sin()
        total = torch.zeros_like(waves)
        for i in range(self.shift, self.shift + self.window):
            total += lagged(waves, i)
        return total


def lagged(x_BT: Tensor, lag: int) -> Tensor:
    """x_{n - lag}, 0 before the start."""
    T = x_BT.shape[1]
    return torch.nn.functional.pad(x_BT, (lag, 0))[:, :T]
