"""Softmax attention whose keys carry a share of the key before them.

    k'_t = a k_t + (1 - a) k_{t-1},      a = sigmoid(g), one a key head, trained; k_{-1} = 0

(Olsson et al. 2022, arXiv 2209.11895, "smeared keys".) A head can then look for "what followed a token
like this one" in one step, where plain attention needs a head in an earlier layer to copy the previous
token forward: in-context learning starts far earlier in small models.
"""

import torch
from torch import Tensor, nn

from kernels.attention.masks import Mask
from zoo.cache import LayerCache
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.base import Position


class SmearedKeys(SoftmaxAttention):
    """(B, T, C) in and out. No key carries anything across a boundary between packed documents."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        bias: bool = False,
    ):
        super().__init__(
            width=width, num_heads=num_heads, dropout=dropout, num_kv_heads=num_kv_heads, bias=bias
        )
        self.gate = nn.Parameter(torch.zeros(self.num_kv_heads))

    def mix(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        position: Position,
        mask: Mask,
        cache: LayerCache | None,
    ) -> Tensor:
        smeared = self.smear(k_BGTD, mask, cache)
        return super().mix(q_BHTD, smeared, v_BGTD, position, mask, cache)

    def smear(self, k_BGTD: Tensor, mask: Mask, cache: LayerCache | None) -> Tensor:
        """The new keys (B, G, T, D) with their predecessors' share; `cache.state` is the last key."""
        before_BG1D = torch.zeros_like(k_BGTD[:, :, :1])
        if cache is not None:
            before_BG1D = before_BG1D if cache.state is None else cache.state
            cache.state = k_BGTD[:, :, -1:]
        previous_BGTD = torch.cat((before_BG1D, k_BGTD[:, :, :-1]), dim=2)
        if mask.ids is not None:
            T = k_BGTD.shape[2]
            seen = T if cache is None else cache.length + T
            ids = mask.ids.to(k_BGTD.device)[..., :seen]
            same = torch.ones_like(ids, dtype=torch.bool)
            same[..., 1:] = ids[..., 1:] == ids[..., :-1]
            same = same[..., seen - T :].reshape(-1, 1, T, 1)
            previous_BGTD = previous_BGTD * same
        own_G11 = torch.sigmoid(self.gate)[:, None, None]
        return own_G11 * k_BGTD + (1 - own_G11) * previous_BGTD
