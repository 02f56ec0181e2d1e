"""Sinusoidal absolute positions: PE[p, 2k] = sin(p w_k), PE[p, 2k+1] = cos(p w_k).

w_k = base^(-2k/C). Vaswani et al. 2017, §3.5. Token embeddings here start far smaller than the
table's unit amplitude, so `scale` brings the table down to them (1 gives the paper's sum).
"""

import torch
from torch import Tensor

from zoo.positions.base import Position


class Sinusoidal(Position):
    """Adds the fixed table, computed where it is needed: no length limit, no parameters."""

    def __init__(self, *, base: float = 10000.0, scale: float = 0.1, **model):
        super().__init__(**model)
        if base <= 1:
            raise ValueError(f"base: must be above 1, got {base}")
        if scale <= 0:
            raise ValueError(f"scale: must be above 0, got {scale}")
        self.base = base
        self.scale = scale

    def table(self, offset: int, end: int, device: torch.device | None = None) -> Tensor:
        """The paper's table, (end - offset, C), float64, before `scale`."""
        even_K = torch.arange(0, self.width, 2, device=device, dtype=torch.float64)
        position_T = torch.arange(offset, end, device=device, dtype=torch.float64)
        angle_TK = position_T[:, None] * self.base ** (-even_K / self.width)
        return torch.stack((angle_TK.sin(), angle_TK.cos()), dim=-1).flatten(1)[:, : self.width]

    def embed(self, x_BTC: Tensor, offset: int = 0) -> Tensor:
        table_TC = self.table(offset, offset + x_BTC.shape[1], x_BTC.device)
        return x_BTC + (self.scale * table_TC).to(x_BTC.dtype)
