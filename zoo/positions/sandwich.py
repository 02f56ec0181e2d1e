"""Sandwich: score += (sum_m cos(distance * 10000^(-2m/D)) - D/2) / (8h/H), no parameters.

Chi et al. 2022, arXiv 2212.10356: the inner product of two sinusoidal embeddings, recentred to
be at most zero and compressed head by head; m = 1 .. D/2, D the sinusoid's width, h = 1 .. H.
"""

import torch
from torch import Tensor

from zoo.positions.base import Position, by_distance


class Sandwich(Position):
    """The sinusoids' own decay as a bias; `dim` is D, 128 as in the authors' code."""

    def __init__(self, *, dim: int = 128, **model):
        super().__init__(**model)
        if dim < 2 or dim % 2:
            raise ValueError(f"dim: must be even and at least 2, got {dim}")
        self.dim = dim

    def bias(
        self, num_queries: int, num_keys: int, *, start: int = 0, device: torch.device | None = None
    ) -> Tensor:
        pair_M = torch.arange(1, self.dim // 2 + 1, device=device, dtype=torch.float64)
        distance_S = torch.arange(num_keys, device=device, dtype=torch.float64)
        angle_SM = distance_S[:, None] * 10000.0 ** (-2 * pair_M / self.dim)
        decay_S = angle_SM.cos().sum(-1) - self.dim / 2
        head_H = torch.arange(1, self.num_heads + 1, device=device, dtype=torch.float64)
        return by_distance(decay_S / (8 * head_H[:, None] / self.num_heads), num_queries)
