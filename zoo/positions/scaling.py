"""How RoPE's frequencies change to read further than was trained.

theta are the trained frequencies, N the training length, L the length being read, s = `factor`, the
stretch aimed at. None of them trains anything.
"""

import math

import torch
from torch import Tensor


class Scaling:
    """A rule theta -> theta'. `attention_factor` multiplies q and k (YaRN's temperature)."""

    attention_factor = 1.0

    def __init__(self, *, factor: float = 4.0):
        if factor < 1:
            raise ValueError(f"factor: must be at least 1, got {factor}")
        self.factor = factor

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        """theta', the shape of theta, float64."""
        raise NotImplementedError


class Linear(Scaling):
    """Position interpolation: n -> n/s (Chen et al. 2023, arXiv 2306.15595)."""

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        return theta / self.factor


class NTK(Scaling):
    """NTK-aware: base -> base s^(d/(d-2)); the fastest pair keeps its pace (bloc97, 2023)."""

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        return _rebased(theta, base, self.factor)


class DynamicNTK(Scaling):
    """NTK-aware with the stretch that the current length needs: s' = max(1, s L/N - (s - 1)).

    The frequencies change as a text grows past N, so what a model reads depends on how far it has
    read, and cached decoding differs there from one pass over the whole: so is the rule.
    """

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        stretch = max(1.0, self.factor * length / trained - (self.factor - 1))
        return _rebased(theta, base, stretch)


class YaRN(Scaling):
    """theta' = theta (1 - ramp) + theta/s ramp, logits times (0.1 ln s + 1)^2.

    Peng et al. 2023, arXiv 2309.00071: the ramp runs from the pair that turns `fast` times within N
    (rounded down) to the one that turns `slow` times (rounded up), as in the authors' code.
    """

    def __init__(self, *, factor: float = 4.0, fast: float = 32.0, slow: float = 1.0):
        super().__init__(factor=factor)
        if not 0 < slow < fast:
            raise ValueError(f"fast: must be above slow={slow} and slow above 0, got {fast}")
        self.fast, self.slow = fast, slow
        self.attention_factor = 0.1 * math.log(factor) + 1

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        dim = 2 * len(theta)

        def pair(turns: float) -> float:
            return dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(base))

        low = max(math.floor(pair(self.fast)), 0)
        high = min(math.ceil(pair(self.slow)), dim - 1)
        index = torch.arange(len(theta), dtype=theta.dtype)
        ramp = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
        return theta * (1 - ramp) + theta / self.factor * ramp


class Llama3(Scaling):
    """By wavelength w = 2 pi / theta: as trained below N/high, theta/s above N/low, between them

        theta' = (1 - r) theta/s + r theta,    r = (N/w - low) / (high - low)

    Llama 3.1 (Meta 2024), whose N is 8192.
    """

    def __init__(self, *, factor: float = 8.0, low: float = 1.0, high: float = 4.0):
        super().__init__(factor=factor)
        if not 0 < low < high:
            raise ValueError(f"high: must be above low={low} and low above 0, got {high}")
        self.low, self.high = low, high

    def frequencies(self, theta: Tensor, base: float, trained: int, length: int) -> Tensor:
        turns = trained * theta / (2 * math.pi)
        share = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - share) * theta / self.factor + share * theta


def _rebased(theta: Tensor, base: float, stretch: float) -> Tensor:
    dim = 2 * len(theta)
    if dim == 2:
        return theta
    power = torch.arange(0, dim, 2, dtype=theta.dtype) / dim
    return (base * stretch ** (dim / (dim - 2))) ** -power
