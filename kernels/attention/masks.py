"""Interval masks: query t sees exactly the keys lo(t) <= s < hi(t), with lo and hi non-decreasing.

    causal()                lo = 0                          hi = t + 1
    sliding_window(w)       lo = max(0, t - w + 1)          hi = t + 1
    blockwise_causal(h)     lo = max(0, t // h - 1) * h     hi = t + 1     (Sun et al. 2022, section 3.3)
    prefix(lengths)         lo = 0                          hi = max(t + 1, lengths[b])
    documents(ids)          lo, hi = the run of equal ids that holds t     (both directions)
    full()                  lo = 0                          hi = S
    a & b                   lo = max(lo_a, lo_b)            hi = min(hi_a, hi_b)

`documents` alone is bidirectional inside a document (an encoder over packed texts);
`causal() & documents(ids)` is the packed decoder.

With S keys and T <= S queries, the queries are the last T of the S positions: query row r sits at
t = S - T + r. That is cached decoding; T = S is training.

Shapes: B batch, T queries, S keys. A mask that depends on the sample has bounds (B, T) and a dense
form (B, T, S); any other has (T,) and (T, S).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """An intersection of intervals. Build one with the functions of this module and `&`.

    is_causal: no query sees a later key.
    window:    no query sees a key `window` or more positions back; None for no such limit.
    blocks:    block sizes of the blockwise-causal limits that hold together; `block` is the only one.
    lengths:   () or (B,) bidirectional prefix lengths; None when the mask has none.
    ids:       (S,) or (B, S) document numbers by position; None when the mask has none.
    """

    is_causal: bool = False
    window: int | None = None
    blocks: tuple[int, ...] = ()
    lengths: Tensor | None = None
    ids: Tensor | None = None

    @property
    def block(self) -> int | None:
        """The block size when the mask has exactly one blockwise-causal limit, else None."""
        return self.blocks[0] if len(self.blocks) == 1 else None

    @property
    def per_sample(self) -> bool:
        """True when the mask holds tensors (prefix lengths or documents)."""
        return self.lengths is not None or self.ids is not None

    @property
    def batch(self) -> int | None:
        """The number of samples that the mask tells apart; None when it treats all alike."""
        sizes = [x.shape[0] for x in (self.lengths,) if x is not None and x.dim() == 1]
        sizes += [x.shape[0] for x in (self.ids,) if x is not None and x.dim() == 2]
        return max(sizes, default=None)

    @property
    def is_plain_causal(self) -> bool:
        """True for causal() and nothing else."""
        return self.is_causal and self.window is None and not self.blocks and not self.per_sample

    @property
    def is_plain_blockwise(self) -> bool:
        """True for blockwise_causal(block) and nothing else."""
        return self.block is not None and self.window is None and not self.per_sample

    @property
    def is_full(self) -> bool:
        """True when nothing is hidden from any query."""
        return not self.is_causal and not self.per_sample

    @property
    def period(self) -> int | None:
        """The mask is unchanged when the origin moves by a multiple of this; None when by nothing."""
        return None if self.per_sample else math.lcm(*self.blocks)

    def first_needed(self, t: int) -> int:
        """The first key that any query at position >= t, in any sample, can see."""
        low = self._lowest(t)
        if self.ids is not None:
            if t >= self.ids.shape[-1]:
                raise ValueError(
                    f"documents: ids cover {self.ids.shape[-1]} positions, query {t} is past them"
                )
            low = max(low, int(_runs(self.ids)[0][..., t].min()))
        return low

    def _lowest(self, t: int) -> int:
        low = 0 if self.window is None else max(0, t - self.window + 1)
        for block in self.blocks:
            low = max(low, (t // block - 1) * block)
        return low

    def bounds(
        self, T: int, S: int | None = None, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """(lo, hi), int64, (T,) or (B, T): query row r sees keys lo[r] <= s < hi[r] of 0..S-1.

        Rows that see nothing have hi <= lo.
        """
        S = T if S is None else S
        if T > S and not self.is_full:
            raise ValueError(f"{T} queries but {S} keys: the queries must be the last of the keys")
        t = torch.arange(S - T, S, device=device)
        lo = torch.zeros_like(t)
        hi = torch.full_like(t, S)
        if self.window is not None:
            lo = (t - self.window + 1).clamp(min=0)
        for block in self.blocks:
            lo = torch.maximum(lo, (t // block - 1) * block)
        if self.is_causal:
            hi = t + 1
        elif self.lengths is not None:
            hi = torch.maximum(t + 1, self.lengths.to(t.device).unsqueeze(-1)).clamp(max=S)
        if self.ids is not None:
            if self.ids.shape[-1] < S:
                raise ValueError(
                    f"documents: ids cover {self.ids.shape[-1]} positions, the keys have {S}"
                )
            first, last = _runs(self.ids.to(t.device)[..., :S])
            lo = torch.maximum(lo, first[..., S - T :])
            hi = torch.minimum(hi, last[..., S - T :])
        lo, hi = torch.broadcast_tensors(lo, hi)
        return lo, hi

    def dense(
        self, T: int, S: int | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Boolean (T, S) or (B, T, S), True where the query (row) sees the key."""
        S = T if S is None else S
        lo, hi = self.bounds(T, S, device)
        s = torch.arange(S, device=lo.device)
        return (lo.unsqueeze(-1) <= s) & (s < hi.unsqueeze(-1))

    def within(self, S: int) -> Mask:
        """The same mask over positions 0..S-1, without the limits that hide nothing there."""
        blocks = tuple(block for block in self.blocks if 2 * block < S)
        window = None if self.window is not None and self.window >= S else self.window
        if blocks == self.blocks and window == self.window:
            return self
        return Mask(self.is_causal, window, blocks, self.lengths, self.ids)

    def to(self, device: torch.device | str) -> Mask:
        """The same mask with its tensors, if it has any, on `device`."""
        if not self.per_sample:
            return self
        lengths = None if self.lengths is None else self.lengths.to(device)
        ids = None if self.ids is None else self.ids.to(device)
        return Mask(self.is_causal, self.window, self.blocks, lengths, ids)

    def by_block(self, S: int) -> tuple[Mask, Mask]:
        """A mask with one blockwise limit as two of S keys that share no pair: keys of the query's
        own block, and keys of the one before."""
        assert self.block is not None
        positions = S if self.ids is None else self.ids.shape[-1]
        device = None if self.ids is None else self.ids.device
        own = self & documents(torch.arange(positions, device=device) // self.block)
        fields = (self.is_causal, self.window, self.blocks, self.lengths, self.ids)
        return own, _PreviousBlock(*fields)

    def fields(self) -> tuple[bool, int | None, list[int], Tensor | None, Tensor | None]:
        """The mask as operator arguments: is_causal, window, blocks, lengths, ids."""
        return self.is_causal, self.window, list(self.blocks), self.lengths, self.ids

    def __and__(self, other: Mask) -> Mask:
        windows = [w for w in (self.window, other.window) if w is not None]
        sizes = {*self.blocks, *other.blocks}
        # A limit of block h implies that of every multiple of h.
        blocks = sorted(b for b in sizes if not any(b != a and b % a == 0 for a in sizes))
        is_causal = self.is_causal or other.is_causal
        # Causal is the tighter upper bound: a prefix under it hides nothing.
        prefixes = [m.lengths for m in (self, other) if m.lengths is not None and not is_causal]
        texts = [m.ids for m in (self, other) if m.ids is not None]
        return Mask(
            is_causal=is_causal,
            window=min(windows, default=None),
            blocks=tuple(blocks),
            lengths=torch.minimum(*prefixes) if len(prefixes) == 2 else next(iter(prefixes), None),
            ids=_common_runs(*texts) if len(texts) == 2 else next(iter(texts), None),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        plain = self._plain() == other._plain()
        return plain and _same(self.lengths, other.lengths) and _same(self.ids, other.ids)

    def __hash__(self) -> int:
        return hash(self._plain())

    def _plain(self) -> tuple:
        return self.is_causal, self.window, self.blocks, self.lengths is None, self.ids is None


@dataclass(frozen=True, eq=False)
class _PreviousBlock(Mask):
    """Of the keys that the mask shows, those of the previous block; rows may see none."""

    @property
    def per_sample(self) -> bool:
        """True, for nothing but its bounds describes it."""
        return True

    def bounds(
        self, T: int, S: int | None = None, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        lo, hi = super().bounds(T, S, device)
        assert self.block is not None
        S = T if S is None else S
        t = torch.arange(S - T, S, device=lo.device)
        hi = torch.minimum(hi, t // self.block * self.block)
        return torch.minimum(lo, hi), hi


def full() -> Mask:
    """Every query sees every key (an encoder, or cross-attention)."""
    return Mask()


def causal() -> Mask:
    """Query t sees the keys 0..t."""
    return Mask(is_causal=True)


def sliding_window(window: int) -> Mask:
    """Query t sees itself and the window - 1 keys before it."""
    return Mask(is_causal=True, window=_positive("sliding_window: window", window))


def blockwise_causal(block: int) -> Mask:
    """Query t sees, causally, its own block and the whole block before it: h + 1 to 2h keys."""
    return Mask(is_causal=True, blocks=(_positive("blockwise_causal: block", block),))


def prefix(lengths: Tensor | Sequence[int] | int) -> Mask:
    """Bidirectional over the first lengths[b] tokens, causal after (prefix-LM); lengths () or (B,)."""
    lengths = torch.as_tensor(lengths)
    if lengths.dim() > 1 or lengths.is_floating_point():
        raise ValueError(f"prefix: lengths must be an integer or (B,) integers, got {lengths}")
    return Mask(lengths=lengths)


def documents(ids: Tensor) -> Mask:
    """Attention stays inside runs of equal id, in both directions; ids (S,) or (B, S).

    A later run that repeats an id is another document. Intersect with causal() for a decoder.
    """
    if ids.dim() not in (1, 2) or ids.is_floating_point():
        raise ValueError(f"documents: ids must be integers (S,) or (B, S), got {tuple(ids.shape)}")
    return Mask(ids=ids)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def _starts(ids: Tensor) -> Tensor:
    """True at the first position of each run of equal ids."""
    first = torch.ones_like(ids[..., :1], dtype=torch.bool)
    return torch.cat([first, ids[..., 1:] != ids[..., :-1]], dim=-1)


def _runs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(first, end) positions of the run that holds each position, shaped like ids."""
    S = ids.shape[-1]
    place = torch.arange(S, device=ids.device).expand(ids.shape)
    starts = _starts(ids)
    first = torch.where(starts, place, 0).cummax(-1).values
    following = torch.where(starts, place, S)[..., 1:]
    following = torch.cat([following, torch.full_like(place[..., :1], S)], dim=-1)
    end = following.flip(-1).cummin(-1).values.flip(-1)
    return first, end


def _common_runs(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"documents: ids of {a.shape[-1]} and {b.shape[-1]} positions do not meet")
    return (_starts(a) | _starts(b)).cumsum(-1)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
