"""T5's bucketed bias: score += w_h[bucket(distance)], the table learned and shared by all layers.

Raffel et al. 2019, arXiv 1910.10683, causal form: half of the buckets hold one distance each, the
rest grow logarithmically up to `max_distance`; everything beyond shares the last one.
"""

import math

import torch
from torch import Tensor, nn

from zoo.positions.base import Position, by_distance


class T5Bias(Position):
    """A learned scalar a bucket and head, starting at zero."""

    def __init__(self, *, num_buckets: int = 32, max_distance: int = 128, **model):
        super().__init__(**model)
        if num_buckets < 2 or num_buckets % 2:
            raise ValueError(f"num_buckets: must be even and at least 2, got {num_buckets}")
        if max_distance <= num_buckets // 2:
            raise ValueError(
                f"max_distance: must be above half of num_buckets={num_buckets}, got {max_distance}"
            )
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.table_HK = nn.Parameter(torch.zeros(self.num_heads, num_buckets))

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance >= 0."""
        exact = self.num_buckets // 2
        growth = torch.log(distance.clamp(min=exact).double() / exact)
        growth = growth / math.log(self.max_distance / exact) * (self.num_buckets - exact)
        far = (exact + growth.long()).clamp(max=self.num_buckets - 1)
        return torch.where(distance < exact, distance, far)

    def bias(
        self, num_queries: int, num_keys: int, *, start: int = 0, device: torch.device | None = None
    ) -> Tensor:
        distance_S = torch.arange(num_keys, device=self.table_HK.device)
        return by_distance(self.table_HK[:, self.bucket(distance_S)], num_queries)
