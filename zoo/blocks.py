"""How a layer is put together."""

from collections.abc import Callable

from torch import Tensor, nn

from kernels.attention.masks import Mask
from zoo.cache import LayerCache
from zoo.positions.base import Position


class PreNorm(nn.Module):
    """x += mixer(norm(x)); x += mlp(norm(x)): the residual stream itself is never normalised."""

    def __init__(
        self,
        *,
        width: int,
        mixer: nn.Module,
        mlp: nn.Module,
        norm: Callable[[int], nn.Module],
    ):
        super().__init__()
        self.mixer_norm = norm(width)
        self.mixer = mixer
        self.mlp_norm = norm(width)
        self.mlp = mlp

    def forward(
        self, x_BTC: Tensor, position: Position, mask: Mask, cache: LayerCache | None = None
    ) -> Tensor:
        x_BTC = x_BTC + self.mixer(self.mixer_norm(x_BTC), position, mask, cache)
        return x_BTC + self.mlp(self.mlp_norm(x_BTC))


class Parallel(PreNorm):
    """x += mixer(norm x) + mlp(norm' x): both read the same stream (GPT-J; GPT-NeoX, Black et al. 2022)."""

    def forward(
        self, x_BTC: Tensor, position: Position, mask: Mask, cache: LayerCache | None = None
    ) -> Tensor:
        mixed_BTC = self.mixer(self.mixer_norm(x_BTC), position, mask, cache)
        return x_BTC + mixed_BTC + self.mlp(self.mlp_norm(x_BTC))


class PostNorm(PreNorm):
    """x = norm(x); x += mixer(x); x = norm'(x); x += mlp(x): the stream itself is normalised.

    The first norm is that of the embeddings, a later block's closes the block before it and the
    model's last closes the last: BERT's and RoBERTa's chain (Devlin et al. 2018, Liu et al. 2019),
    cut one norm earlier.
    """

    def forward(
        self, x_BTC: Tensor, position: Position, mask: Mask, cache: LayerCache | None = None
    ) -> Tensor:
        x_BTC = self.mixer_norm(x_BTC)
        x_BTC = self.mlp_norm(x_BTC + self.mixer(x_BTC, position, mask, cache))
        return x_BTC + self.mlp(x_BTC)
