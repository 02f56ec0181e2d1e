"""ALiBi: score -= m_h * distance, with a fixed geometric row of slopes m_h over the heads.

Press et al. 2021, arXiv 2108.12409: m_h = 2^(-8h/H) for H a power of two; otherwise the slopes of
the next lower power, then every second slope of the next higher one.
"""

import torch
from torch import Tensor

from zoo.positions.base import Position


def alibi_slopes(num_heads: int) -> list[float]:
    """The published slopes, one a head."""

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (head + 1) / count) for head in range(count)]

    power = 1 << (num_heads.bit_length() - 1)
    return geometric(power) + geometric(2 * power)[0::2][: num_heads - power]


class ALiBi(Position):
    """A linear penalty on distance, fused into the attention operation through `slopes`."""

    slopes_H: Tensor

    def __init__(self, **model):
        super().__init__(**model)
        self.register_buffer(
            "slopes_H", torch.tensor(alibi_slopes(self.num_heads)), persistent=False
        )

    def slopes(self) -> Tensor:
        return self.slopes_H
