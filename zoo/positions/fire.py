"""FIRE: score += f(psi(distance) / psi(max(i, L))), psi(x) = log(c x + 1), f a small MLP.

Li et al. 2023, arXiv 2310.04418. i is the query's absolute position, so unlike the other biases
it does not depend on the distance alone; c > 0 and the threshold L are learned.
"""

import torch
from torch import Tensor, nn

from zoo.positions.base import Position, distances


class FIRE(Position):
    """A learned function of progressively interpolated distance, one a layer."""

    shared = False

    def __init__(self, *, hidden: int = 32, threshold: float | None = None, **model):
        super().__init__(**model)
        if hidden < 1:
            raise ValueError(f"hidden: must be at least 1, got {hidden}")
        if threshold is None:
            threshold = self.context_length / 2
        if threshold <= 0:
            raise ValueError(f"threshold: must be above 0, got {threshold}")
        self.c = nn.Parameter(torch.tensor(0.1))
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, self.num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's own start for the MLP: the decoder's small normal would leave it flat."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def bias(
        self, num_queries: int, num_keys: int, *, start: int = 0, device: torch.device | None = None
    ) -> Tensor:
        c = self.c.abs() + 1e-6
        distance_TS = distances(num_queries, num_keys, self.c.device).to(self.c.dtype)
        query_T = torch.arange(num_keys - num_queries, num_keys, device=self.c.device) + start
        reach_T = torch.maximum(query_T.to(self.c.dtype), self.threshold.abs().clamp(min=1e-6))
        ratio_TS = torch.log1p(c * distance_TS) / torch.log1p(c * reach_T)[:, None]
        return self.mlp(ratio_TS[..., None]).permute(2, 0, 1)
