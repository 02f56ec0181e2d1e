"""Normalisations over the last axis, each built from the width alone."""

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016), without a bias unless asked for."""

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = False):
        super().__init__(width, eps=eps, bias=bias)


class RMSNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019): x / rms(x) * weight, the mean square in float32."""

    def __init__(self, width: int, *, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTC: Tensor) -> Tensor:
        return nn.functional.rms_norm(x_BTC, self.weight.shape, self.weight, self.eps)
