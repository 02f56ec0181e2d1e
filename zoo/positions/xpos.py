"""xPos: rotary positions whose pairs also decay with distance, by zeta_i^(distance / S).

    zeta_i = (i/(D/2) + 0.4) / 1.4
    q'_n = q_n e^(j n theta) zeta^((n - c)/S)      k'_n = k_n e^(j n theta) zeta^(-(n - c)/S)

Sun et al. 2022 (LeX), arXiv 2212.10554 §2, with S and the centre c of the authors' code: the paper's
formula without them overflows within a hundred tokens. c cancels in every score.
"""

import torch
from torch import Tensor

from zoo.positions.rope import RoPE

GAMMA = 0.4


class XPos(RoPE):
    """The Length-Extrapolatable Transformer's positions, made for blockwise causal attention.

    scale_base: S in tokens, by default half the training length (the authors' 512 for 1024). With a
    blockwise mask whose block is of the order of S, any length is exact; otherwise float32 holds up
    to about 130 S tokens in one pass.
    """

    def __init__(self, *, scale_base: float | None = None, **rope):
        super().__init__(**rope)
        self.scale_base = self.context_length / 2 if scale_base is None else float(scale_base)
        if self.scale_base <= 0:
            raise ValueError(f"scale_base: must be above 0, got {scale_base}")

    def factors(
        self, position_T: Tensor, length: int, centre: float, *, inverse: bool = False
    ) -> Tensor:
        rotation = super().factors(position_T, length, centre)
        pairs = torch.arange(self.rotated // 2, dtype=torch.float64, device=position_T.device)
        zeta = (pairs / (self.rotated / 2) + GAMMA) / (1 + GAMMA)
        power_T = (position_T.double() - centre) / self.scale_base
        decay_TD = zeta ** (-power_T if inverse else power_T)[:, None]
        return rotation * decay_TD[..., None]
