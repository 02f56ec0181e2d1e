"""Where a position scheme may act: on the input, on queries and keys, or on the scores.

Shapes: B batch, T queries, S keys, C width, H query heads, G key heads, D head width.
The T queries are always the *last* T of the S keys (S > T when decoding with a cache), so a
scheme is told the two lengths, and `start`: how many earlier tokens the cache has let go of.
Relative schemes ignore `start`; that is why they can forget.
"""

import torch
from torch import Tensor, nn


class Position(nn.Module):
    """Does nothing anywhere. A scheme overrides the one method it needs.

    The decoder builds it with the model's `num_heads`, `head_dim`, `width` and `context_length`.
    `shared` schemes are built once for all layers, the others once a layer.
    """

    shared = True
    max_length: int | None = None  # longest sequence the scheme is defined for; None: any

    def __init__(self, *, num_heads: int, head_dim: int, width: int, context_length: int):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.width = width
        self.context_length = context_length

    def embed(self, x_BTC: Tensor, offset: int = 0) -> Tensor:
        """The input with positions offset .. offset+T-1 added to it."""
        return x_BTC

    def embed_rows(self, x_BTC: Tensor, offset_B: Tensor) -> Tensor:
        """`embed` where each row begins at a position of its own; what lies before 0 counts as 0."""
        if type(self).embed is Position.embed:
            return x_BTC
        place_BT = offset_B[:, None] + torch.arange(x_BTC.shape[1], device=x_BTC.device)
        place_BT = place_BT.clamp(min=0)
        table_SC = self.embed(x_BTC.new_zeros(1, int(place_BT.max()) + 1, x_BTC.shape[2]))[0]
        return x_BTC + table_SC[place_BT]

    def rotate(
        self, q_BHTD: Tensor, k_BGSD: Tensor, *, block: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys turned by their positions: (q, k, None).

        With `block` (blockwise causal attention) positions may be counted from the start of each
        query's window instead, so that no angle or decay grows with the length: then
        (q for its own block, k, q for the previous block).
        """
        return q_BHTD, k_BGSD, None

    def bias(
        self, num_queries: int, num_keys: int, *, start: int = 0, device: torch.device | None = None
    ) -> Tensor | None:
        """What is added to the scores after the 1/sqrt(D): (H, T, S), or None."""
        return None

    def slopes(self) -> Tensor | None:
        """ALiBi's special case of `bias`, which kernels fuse: (H,), minus slope times distance."""
        return None


def distances(num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
    """How far back each key lies, (T, S); keys ahead of the query count as 0 (masked anyway)."""
    keys_S = torch.arange(num_keys, device=device)
    return (keys_S[num_keys - num_queries :, None] - keys_S).clamp_(min=0)


def by_distance(bias_HR: Tensor, num_queries: int) -> Tensor:
    """A bias that depends on the distance alone, (H, S) by distance, laid out as (H, T, S)."""
    num_keys = bias_HR.shape[1]
    return bias_HR[:, distances(num_queries, num_keys, bias_HR.device)]
