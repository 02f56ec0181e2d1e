"""Position-wise networks: (B, T, C) in and out."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, relu, silu


class MLP(nn.Module):
    """C -> expansion * C -> C, with what `activate` says between."""

    def __init__(
        self,
        width: int,
        *,
        dropout: float = 0.0,
        expansion: float = 4.0,
        bias: bool = False,
    ):
        super().__init__()
        if expansion <= 0:
            raise ValueError(f"expansion: must be above 0, got {expansion}")
        hidden = round(expansion * width)
        self.expand = nn.Linear(width, hidden, bias=bias)
        self.project = nn.Linear(hidden, width, bias=bias)
        self.dropout = dropout

    def activate(self, hidden_BTE: Tensor) -> Tensor:
        """The function between the two products."""
        raise NotImplementedError

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC = self.project(self.activate(self.expand(x_BTC)))
        return dropout(out_BTC, self.dropout, self.training) if self.dropout else out_BTC


class GELU(MLP):
    """GELU between (GPT-2 uses the tanh form)."""

    def __init__(self, width: int, *, approximate: Literal["none", "tanh"] = "none", **options):
        super().__init__(width, **options)
        self.approximate = approximate

    def activate(self, hidden_BTE: Tensor) -> Tensor:
        return gelu(hidden_BTE, approximate=self.approximate)


class ReLU(MLP):
    """ReLU between."""

    def activate(self, hidden_BTE: Tensor) -> Tensor:
        return relu(hidden_BTE)


class SiLU(MLP):
    """SiLU between: x sigmoid(x)."""

    def activate(self, hidden_BTE: Tensor) -> Tensor:
        return silu(hidden_BTE)


class SwiGLU(nn.Module):
    """project(silu(gate x) * expand x) (Shazeer 2020); 8/3 C hidden, so as costly as GELU's 4 C."""

    def __init__(
        self,
        width: int,
        *,
        dropout: float = 0.0,
        expansion: float = 8 / 3,
        multiple_of: int = 32,
        bias: bool = False,
    ):
        super().__init__()
        if expansion <= 0:
            raise ValueError(f"expansion: must be above 0, got {expansion}")
        if multiple_of < 1:
            raise ValueError(f"multiple_of: must be at least 1, got {multiple_of}")
        hidden = -(-round(expansion * width) // multiple_of) * multiple_of
        self.expand = nn.Linear(width, 2 * hidden, bias=bias)
        self.project = nn.Linear(hidden, width, bias=bias)
        self.dropout = dropout

    def forward(self, x_BTC: Tensor) -> Tensor:
        gate, value = self.expand(x_BTC).chunk(2, dim=-1)
        out_BTC = self.project(silu(gate) * value)
        return dropout(out_BTC, self.dropout, self.training) if self.dropout else out_BTC
