"""What decoding keeps: per layer the keys and values that a later token may still see.

Keys are kept *as projected*, before any rotation. Positions are applied anew to what is in reach,
so a scheme may count them from wherever it likes (xPos keeps its decay centred, LeX counts from
its window), and cached decoding equals the full pass whatever the scheme. The cost is that of
reading the keys once more, which attention does anyway.
"""

import torch
from torch import Tensor

from kernels.attention.masks import Mask


class LayerCache:
    """Keys and values of one layer, (B, G, S, D) each; `state` is a mixer's own, if it has one."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._first = 0
        self._end = 0
        self.state: Tensor | None = None
        self.start = 0  # tokens let go of so far

    def extend(self, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Appends new keys and values, and returns all that are kept, as views."""
        new = k_BGTD.shape[2]
        if self._keys is None or self._values is None or self._end + new > self._keys.shape[2]:
            self._grow(k_BGTD, v_BGTD)
        assert self._keys is not None and self._values is not None
        self._keys[:, :, self._end : self._end + new] = k_BGTD
        self._values[:, :, self._end : self._end + new] = v_BGTD
        self._end += new
        return self._live(self._keys), self._live(self._values)

    def drop(self, count: int) -> None:
        """Lets go of the oldest `count` tokens."""
        self._first += count
        self.start += count

    def _live(self, buffer: Tensor) -> Tensor:
        return buffer[:, :, self._first : self._end]

    def _grow(self, k_BGTD: Tensor, v_BGTD: Tensor) -> None:
        """Moves to a buffer twice as long as what lives, so that appending stays O(1)."""
        batch, groups, new, dim = k_BGTD.shape
        live = self._end - self._first
        capacity = 2 * (live + new)
        keys = k_BGTD.new_empty(batch, groups, capacity, dim)
        values = v_BGTD.new_empty(batch, groups, capacity, v_BGTD.shape[3])
        if self._keys is not None and self._values is not None:
            keys[:, :, :live] = self._live(self._keys)
            values[:, :, :live] = self._live(self._values)
        self._keys, self._values, self._first, self._end = keys, values, 0, live

    def reorder(self, beam_B: Tensor) -> None:
        """Row b continues what row beam_B[b] held (beam search)."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[beam_B], self._values[beam_B]
        if self.state is not None:
            self.state = self.state[beam_B]

    @property
    def length(self) -> int:
        """Tokens whose keys and values are kept."""
        return self._end - self._first

    @property
    def size(self) -> int:
        """Bytes of the keys and values in reach."""
        if self._keys is None or self._values is None:
            return 0
        live = (self._live(self._keys), self._live(self._values))
        return sum(x.numel() * x.element_size() for x in live)


class Cache:
    """The caches of all layers, and how many tokens the model has seen through them.

    What no later token can see under the model's mask is let go of, so under a sliding window or
    blockwise causal attention the cache stays bounded however long the text grows.
    """

    def __init__(self, num_layers: int):
        self.layers = [LayerCache() for _ in range(num_layers)]
        self.length = 0

    @property
    def start(self) -> int:
        """The absolute position of the oldest key that is kept."""
        return self.layers[0].start

    def advance(self, num_tokens: int, mask: Mask) -> None:
        """Counts `num_tokens` more as seen and drops what the mask hides from all that follow.

        The origin moves only by whole periods of the mask, under which it stays the same mask.
        """
        self.length += num_tokens
        if mask.period is None:
            return
        needed = mask.first_needed(self.length - self.start)
        count = needed // mask.period * mask.period
        for layer in self.layers:
            layer.drop(count)

    def reorder(self, beam_B: Tensor) -> None:
        """Beam search: row b continues what row beam_B[b] held."""
        for layer in self.layers:
            layer.reorder(beam_B)

    @property
    def size(self) -> int:
        """Bytes held within reach, over all layers."""
        return sum(layer.size for layer in self.layers)


def no_cache_with_gradient() -> None:
    """Raises where a cache is used while autograd records: its buffers are written in place."""
    if torch.is_grad_enabled():
        raise RuntimeError("a cache is for decoding: use it under torch.no_grad()")
