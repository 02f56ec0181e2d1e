"""Multi-head softmax attention, grouped-query where `num_kv_heads` is smaller.

    q, k, v = x W_q, x W_k, x W_v;   y = softmax(q k' / sqrt(D) + bias) v  W_o     (Vaswani 2017)

The position scheme may rotate q and k or bias the scores; the mask says what is seen.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from kernels.attention.masks import Mask
from kernels.attention.op import attention
from zoo.cache import LayerCache
from zoo.positions.base import Position


class SoftmaxAttention(nn.Module):
    """(B, T, C) in and out. H query heads of width C/H; `num_kv_heads` G divides H."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        bias: bool = False,
    ):
        super().__init__()
        groups = num_heads if num_kv_heads is None else num_kv_heads
        if width % num_heads:
            raise ValueError(f"width: {width} is not divisible by num_heads={num_heads}")
        if groups < 1 or num_heads % groups:
            raise ValueError(
                f"num_kv_heads: {groups} does not divide num_heads={num_heads}; "
                "use a divisor, or null for one a head"
            )
        self.num_heads = num_heads
        self.num_kv_heads = groups
        self.head_dim = width // num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, (num_heads + 2 * groups) * self.head_dim, bias=bias)
        self.project = nn.Linear(width, width, bias=bias)

    def forward(
        self, x_BTC: Tensor, position: Position, mask: Mask, cache: LayerCache | None = None
    ) -> Tensor:
        q, k, v = self.heads(x_BTC)
        return self.output(self.mix(q, k, v, position, mask, cache))

    def output(self, y_BHTD: Tensor) -> Tensor:
        """What the heads found, projected back onto the stream."""
        out_BTC = self.project(y_BHTD.transpose(1, 2).flatten(2))
        return drop(out_BTC, self.dropout, self.training) if self.dropout else out_BTC

    def heads(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projects to q (B, H, T, D) and k, v (B, G, T, D), as views of one product.

        Where that is cut over processes (tasks/tensor_parallel.py), to this one's share of the heads.
        """
        H, G = self.num_heads, self.num_kv_heads
        parts = self.qkv(x_BTC).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        share = (H + 2 * G) // parts.shape[1]
        q, k, v = parts.split((H // share, G // share, G // share), dim=1)
        return q, k, v

    def mix(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        position: Position,
        mask: Mask,
        cache: LayerCache | None,
    ) -> Tensor:
        """Attention itself, over the new keys and those that the cache has kept: (B, H, T, D)."""
        start = 0
        if cache is not None:
            k_BGTD, v_BGTD = cache.extend(k_BGTD, v_BGTD)
            start = cache.start
        T, S = q_BHTD.shape[2], k_BGTD.shape[2]
        q, k, q_previous = position.rotate(q_BHTD, k_BGTD, block=mask.block)
        return attention(
            q,
            k,
            v_BGTD,
            mask,
            slopes=position.slopes(),
            bias=position.bias(T, S, start=start, device=q.device),
            q_previous_BHTD=q_previous,
            dropout=self.dropout if self.training else 0.0,
        )

    @torch.no_grad()
    def scores(self, x_BTC: Tensor, position: Position, mask: Mask) -> Tensor:
        """Scores before the softmax, (B, H, T, T), every additive bias included, unmasked pairs
        only: the rest is -inf. O(T^2) memory: for analysis."""
        q, k, _ = self.heads(x_BTC)
        T = x_BTC.shape[1]
        q, k, _ = position.rotate(q, k)
        k = k.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = q.to(wide) @ k.to(wide).mT / self.head_dim**0.5
        slopes, bias = position.slopes(), position.bias(T, T, device=x_BTC.device)
        if slopes is not None:
            steps = torch.arange(T, device=x_BTC.device)
            scores -= slopes[:, None, None] * (steps[:, None] - steps)
        if bias is not None:
            scores += bias
        visible = mask.dense(T).to(x_BTC.device)
        return scores.masked_fill(
            ~(visible if visible.dim() == 2 else visible[:, None]), -torch.inf
        )
