"""Momentum attention: softmax attention plus the strictly past, geometrically fading sum of values.

    y_t = softmax(q_t K' / sqrt(D)) V + sum_{i<t} eta^(t-i) v_i         (Dai et al. 2022, arXiv 2212.10559)

per head, before W_O. As published the nearest value weighs eta, not 1, and nothing is normalised: the
weights add up to eta/(1-eta), 99 at 0.99, so an eta near 1 drowns attention. The paper names no eta.
The sum is `kernels.momentum`'s scan: O(T D), and one vector a head in decoding.

It follows the documents of a packed batch, not the window of a mask: under a sliding window or
blockwise causal attention it still fades over everything that came before.
"""

import math

import torch
from torch import Tensor, nn

from kernels.attention.masks import Mask
from kernels.momentum.op import momentum
from zoo.cache import LayerCache
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.base import Position


class Momentum(SoftmaxAttention):
    """SoftmaxAttention with a momentum term on its values.

    eta: in [0, 1), one number, or a list with one a key-value head; 0 is plain attention.
    learned: eta is trained, as the sigmoid of a weight that starts at it (so it must be above 0).
    per_head: one eta a key-value head even where `eta` is a single number.
    normalised: weights (1-eta) eta^(t-i-1), which add up to 1. An ablation, not the paper's.
    """

    def __init__(
        self,
        *,
        eta: float | list[float] = 0.5,
        learned: bool = False,
        per_head: bool = False,
        normalised: bool = False,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        bias: bool = False,
    ):
        super().__init__(
            width=width, num_heads=num_heads, dropout=dropout, num_kv_heads=num_kv_heads, bias=bias
        )
        values = list(eta) if isinstance(eta, list | tuple) else [eta]
        if len(values) not in (1, self.num_kv_heads) or not values:
            raise ValueError(
                f"eta: {len(values)} values for {self.num_kv_heads} key-value heads; give one number, "
                "or one a head"
            )
        for value in values:
            if not 0 <= value < 1:
                raise ValueError(f"eta: must be in [0, 1), got {value}")
            if value == 0 and (learned or normalised):
                raise ValueError("eta: must be above 0 where it is learned or normalised")
        if per_head and len(values) == 1:
            values *= self.num_kv_heads
        self.learned = learned
        self.normalised = normalised
        self.logit: nn.Parameter | None = None
        if learned:
            self.logit = nn.Parameter(torch.tensor([math.log(x / (1 - x)) for x in values]))
        self.values = values

    def eta(self) -> Tensor | float:
        """The fading factor: a number, or (1,) or (G,)."""
        if self.logit is not None:
            return torch.sigmoid(
                self.logit.to(torch.promote_types(self.logit.dtype, torch.float32))
            )
        if len(self.values) == 1:
            return self.values[0]
        weight = self.qkv.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        return torch.tensor(self.values, dtype=exact, device=weight.device)

    def mix(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        position: Position,
        mask: Mask,
        cache: LayerCache | None,
    ) -> Tensor:
        if not mask.is_causal:
            raise ValueError("mask: momentum attention is defined under causal masks only")
        y_BHTD = super().mix(q_BHTD, k_BGTD, v_BGTD, position, mask, cache)
        m_BGTD = self.past(v_BGTD, mask, cache)
        groups = y_BHTD.unflatten(1, (self.num_kv_heads, -1)) + m_BGTD.to(y_BHTD.dtype).unsqueeze(2)
        return groups.flatten(1, 2)

    def past(self, v_BGTD: Tensor, mask: Mask, cache: LayerCache | None) -> Tensor:
        """The momentum term of the new positions, (B, G, T, D); carries its state on in `cache`."""
        eta, documents, state = self.eta(), None, None
        T = v_BGTD.shape[2]
        if cache is not None:
            state = cache.state
        if mask.ids is not None:
            seen = T if cache is None else cache.length
            ids = mask.ids.to(v_BGTD.device)[..., :seen]
            documents = ids[..., seen - T :]
            if state is not None:
                if seen == T:
                    raise ValueError("documents: the token before was let go of; start a new cache")
                same = ids[..., seen - T] == ids[..., seen - T - 1]
                state = state * same.reshape(-1, 1, 1)
        m_BGTD, state = momentum(v_BGTD, eta, state=state, documents=documents)
        if cache is not None:
            cache.state = state
        if not self.normalised:
            return m_BGTD
        scale = (1 - eta) / eta
        return m_BGTD * (scale[:, None, None] if isinstance(scale, Tensor) else scale)
