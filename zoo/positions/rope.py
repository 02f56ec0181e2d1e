"""Rotary positions: pair i of q and k, as a complex number, turned by position n times theta_i.

    theta_i = base^(-2i/D)    q'_n = q_n e^(j n theta)    k'_n = k_n e^(j n theta)

so that a score depends on the distance alone. Su et al. 2021, arXiv 2104.09864. Angles are computed in
float64 and kept in float32 whatever the model's dtype.
"""

from typing import Literal

import torch
from torch import Tensor

from kernels.xpos.op import rotate
from zoo.positions.base import Position
from zoo.positions.scaling import Scaling


class RoPE(Position):
    """Rotates the first `fraction` of each head's channels, by default all of them.

    layout: which channels make a pair: "interleaved" (2i, 2i+1) or "half" (i, i + D/2).
    scaling: a rule for lengths beyond the training length (zoo/positions/scaling.py).
    trained_length: what that rule takes for the training length, by default the context length.
    """

    def __init__(
        self,
        *,
        base: float = 10000.0,
        layout: Literal["interleaved", "half"] = "interleaved",
        fraction: float = 1.0,
        scaling: Scaling | None = None,
        trained_length: int | None = None,
        **model,
    ):
        super().__init__(**model)
        if base <= 1:
            raise ValueError(f"base: must be above 1, got {base}")
        if layout not in ("interleaved", "half"):
            raise ValueError(f"layout: must be interleaved or half, got {layout!r}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: must be in (0, 1], got {fraction}")
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim: rotary positions turn pairs of channels, so width={self.width} over "
                f"num_heads={self.num_heads} must be even, got {self.head_dim}"
            )
        self.rotated = int(fraction * self.head_dim)
        if self.rotated % 2 or not self.rotated:
            raise ValueError(
                f"fraction: rotates {self.rotated} of {self.head_dim} channels a head; "
                "rotary positions need an even number of them"
            )
        self.base = base
        self.layout = layout
        self.scaling = scaling
        self.trained_length = self.context_length if trained_length is None else trained_length

    def frequencies(self, length: int) -> Tensor:
        """theta, (D/2,) float64 radians a token, for sequences of `length`."""
        pairs = torch.arange(0, self.rotated, 2, dtype=torch.float64)
        theta = self.base ** (-pairs / self.rotated)
        if self.scaling is None:
            return theta
        return self.scaling.frequencies(theta, self.base, self.trained_length, length)

    def factors(
        self, position_T: Tensor, length: int, centre: float, *, inverse: bool = False
    ) -> Tensor:
        """What a query (or with `inverse` a key) at each position is multiplied by: (T, D/2, 2), the
        real and imaginary parts of size * e^(j n theta)."""
        theta = self.frequencies(length).to(position_T.device)
        angle_TD = position_T.double()[:, None] * theta
        size = 1.0 if self.scaling is None else self.scaling.attention_factor
        return torch.stack((angle_TD.cos(), angle_TD.sin()), dim=-1) * size

    def rotate(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, block: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        T, S = q_BHTD.shape[2], k_BGSD.shape[2]
        place_S = torch.arange(S, device=q_BHTD.device)
        if block is None or 2 * block >= S:
            q_factors = self.factors(place_S[S - T :], S, S / 2)
            k_factors = self.factors(place_S, S, S / 2, inverse=True)
            return self._turn(q_BHTD, q_factors), self._turn(k_BGSD, k_factors), None
        # Beyond one window: keys at their place in their own block, queries once for their own
        # block and once, a block further on, for the one before. Nothing grows with S.
        place_S = place_S % block
        own = self.factors(place_S[S - T :], 2 * block, block)
        after = self.factors(place_S[S - T :] + block, 2 * block, block)
        k_factors = self.factors(place_S, 2 * block, block, inverse=True)
        return self._turn(q_BHTD, own), self._turn(k_BGSD, k_factors), self._turn(q_BHTD, after)

    def _turn(self, x_BHTD: Tensor, factors_TD2: Tensor) -> Tensor:
        factors = factors_TD2.to(torch.promote_types(x_BHTD.dtype, torch.float32))
        if self.rotated == self.head_dim:
            return rotate(x_BHTD, factors, layout=self.layout)
        turned = rotate(x_BHTD[..., : self.rotated], factors, layout=self.layout)
        return torch.cat((turned, x_BHTD[..., self.rotated :]), dim=-1)
