"""A control for momentum attention: as local, as cheap, but no momentum.

    y_t = attention_t + sum_{j=1..4} w_j * v_{t-j}        w_j (H, D) learned, at first eta^j

Both add a fixed causal filter of past values to what attention finds, a previous-token path for free. If a
short learned filter (a depthwise convolution) gains as much, the gain is not momentum's.
"""

import torch
from torch import Tensor, nn

from kernels.attention.masks import Mask
from zoo.cache import LayerCache
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.base import Position


class ValueConvolution(SoftmaxAttention):
    """SoftmaxAttention with a depthwise convolution of the `taps` values before each position."""

    def __init__(self, *, taps: int = 4, eta: float = 0.5, **attention):
        super().__init__(**attention)
        if taps < 1:
            raise ValueError(f"taps: must be at least 1, got {taps}")
        self.taps = taps
        start = eta ** torch.arange(1, taps + 1.0)
        shape = (taps, self.num_kv_heads, 1, self.head_dim)
        self.filter = nn.Parameter(start.view(-1, 1, 1, 1).expand(shape).clone())

    def mix(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        position: Position,
        mask: Mask,
        cache: LayerCache | None,
    ) -> Tensor:
        y_BHTD = super().mix(q_BHTD, k_BGTD, v_BGTD, position, mask, cache)
        m_BGTD = self.past(v_BGTD, mask, cache)
        groups = y_BHTD.unflatten(1, (self.num_kv_heads, -1)) + m_BGTD.to(y_BHTD.dtype).unsqueeze(2)
        return groups.flatten(1, 2)

    def past(self, v_BGTD: Tensor, mask: Mask, cache: LayerCache | None) -> Tensor:
        """The filtered past values, (B, G, T, D); a cache keeps the last `taps` of them."""
        B, G, T, D = v_BGTD.shape
        before = v_BGTD.new_zeros(B, G, self.taps, D)
        if cache is not None:
            if mask.ids is not None:
                raise ValueError("documents: this control decodes one text a row")
            if cache.state is not None:
                before = cache.state.unflatten(2, (self.taps, D)).to(v_BGTD.dtype)
        values = torch.cat((before, v_BGTD), dim=2)
        if cache is not None:
            cache.state = values[:, :, -self.taps :].flatten(2)
        found = torch.zeros_like(v_BGTD)
        for j in range(1, self.taps + 1):
            shifted = values[:, :, self.taps - j : self.taps - j + T]
            if mask.ids is not None:
                ids = torch.nn.functional.pad(mask.ids[..., :T], (j, 0), value=-1)
                same = (ids[..., j:] == ids[..., : ids.shape[-1] - j]).reshape(-1, 1, T, 1)
                shifted = shifted * same
            found = found + self.filter[j - 1] * shifted
        return found
