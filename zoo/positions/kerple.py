"""KERPLE: score += -r1 log(1 + r2 * distance) (log form) or -r1 * distance^r2 (power form).

Chi et al. 2022, arXiv 2205.09921; r1, r2 > 0 learned a head and layer, in the power form r2 <= 2.
"""

import torch
from torch import Tensor, nn

from zoo.positions.base import Position, by_distance


class _Kerple(Position):
    shared = False
    largest_r2 = float("inf")

    def __init__(self, **model):
        super().__init__(**model)
        self.r1_H = nn.Parameter(torch.empty(self.num_heads))
        self.r2_H = nn.Parameter(torch.empty(self.num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Strictly positive starts: with r2 = 0 the bias and its gradient vanish."""
        nn.init.uniform_(self.r1_H, 0.01, 2.0)
        nn.init.uniform_(self.r2_H, 0.01, 1.0)

    def positive(self) -> tuple[Tensor, Tensor]:
        """r1 and r2 held in their range, each (H, 1).

        The gradient passes as if nothing were held: a value that a step took out of its range
        would otherwise have none, and never come back.
        """
        held = (self.r1_H.clamp(min=0.01), self.r2_H.clamp(0.01, self.largest_r2))
        r1_H, r2_H = (raw + (r - raw).detach() for raw, r in zip((self.r1_H, self.r2_H), held))
        return r1_H[:, None], r2_H[:, None]

    def kernel(self, distance_S: Tensor) -> Tensor:
        raise NotImplementedError

    def bias(
        self, num_queries: int, num_keys: int, *, start: int = 0, device: torch.device | None = None
    ) -> Tensor:
        distance_S = torch.arange(num_keys, device=self.r1_H.device, dtype=self.r1_H.dtype)
        return by_distance(self.kernel(distance_S), num_queries)


class KerpleLog(_Kerple):
    """The logarithmic form, the authors' best."""

    def kernel(self, distance_S: Tensor) -> Tensor:
        r1, r2 = self.positive()
        return -r1 * torch.log1p(r2 * distance_S)


class KerplePower(_Kerple):
    """The power form; r2 = 1 is ALiBi with learned slopes."""

    largest_r2 = 2.0

    def kernel(self, distance_S: Tensor) -> Tensor:
        r1, r2 = self.positive()
        return -r1 * torch.where(distance_S > 0, distance_S.clamp(min=1) ** r2, 0.0)
