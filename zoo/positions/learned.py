"""Learned absolute positions: x_i += P[i], P trained (GPT-2).

Rows that training never reaches stay as initialised: `max_length` beyond the training length
exists so that extrapolation can be *measured*, not because it works.
"""

import torch
from torch import Tensor, nn

from zoo.positions.base import Position


class Learned(Position):
    """One trained row a position; `max_length` rows, by default the training length.

    Raises ValueError where a sequence is longer than the table.
    """

    def __init__(self, *, max_length: int | None = None, **model):
        super().__init__(**model)
        rows = self.context_length if max_length is None else max_length
        if rows < self.context_length:
            raise ValueError(
                f"max_length: the table of {rows} learned positions is shorter than "
                f"context_length={self.context_length}; raise max_length"
            )
        self.max_length = rows
        self.table = nn.Embedding(rows, self.width)

    def embed(self, x_BTC: Tensor, offset: int = 0) -> Tensor:
        end = offset + x_BTC.shape[1]
        if end > self.table.num_embeddings:
            raise ValueError(
                f"position {end} is beyond the table of {self.table.num_embeddings} learned "
                "positions; raise model.position.max_length or use a relative scheme"
            )
        return x_BTC + self.table(torch.arange(offset, end, device=x_BTC.device))
