"""An interval mask cut into rectangles that plain attention kernels can run.

Each visible (query, key) pair lies in exactly one rectangle, which is wholly visible, a triangle, or
(rarely) needs the mask itself. The rectangles of a mask with blocks or a window cost O(T * window).

            keys                       keys                        keys
    blockwise, h = 2           sliding window, w = 3        documents & causal
    q  \                       q  \                         q  \
    u  \\                      u  \\                        u  \\
    e  ##\                     e  \\\                       e    \
    r  ##\\                    r   /\\        \ causal      r    \\
    i    ##\                   i   //\        / after       i    \\\
    e    ##\\                  e    /\\       # all         e       \
    s      ##\                 s    ...                     s       \\
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.attention.masks import Mask, documents

CHUNK = 256  # query rows of a rectangle where the mask gives no block size
SMALLEST = 64  # blocks of a sliding window are at least this long: shorter ones starve the matmul


@dataclass(frozen=True)
class Piece:
    """`count` rectangles, the i-th of rows x keys at (query + i * step, key + i * step).

    query counts query rows from 0, key counts keys from 0. kind: "all" visible; "causal", column <=
    row; "after", column >= row; "masked", what the mask says of the first rectangle. batch: the
    sample, or None for every sample. adds: another piece has already covered these rows.
    previous: against the keys of the previous block.
    """

    query: int
    rows: int
    key: int
    keys: int
    kind: str = "all"
    count: int = 1
    step: int = 0
    batch: int | None = None
    adds: bool = False
    previous: bool = False


def cut(mask: Mask, T: int, S: int, *, local: bool = False) -> list[Piece]:
    """The pieces of a mask for the last T of S positions, those with adds=False first in each row.

    local: keep the query rows of every piece within CHUNK, and distances s <= t wherever the piece
    is not "masked" (ALiBi's anchor needs both).
    """
    start = S - T
    window, block = mask.window, mask.block
    if not mask.is_causal and not mask.per_sample:
        return _masked(mask, T, S) if local else [Piece(0, T, 0, S)]
    if not mask.per_sample and window is None and len(mask.blocks) < 2:
        if block is None:
            return _steps(start, S, None) if local else _triangle(start, start, S, 0)
        return _steps(start, S, block) if local and block > CHUNK else _blocks(start, S, block)
    if not mask.per_sample and window is not None and not mask.blocks:
        return _masked(mask, T, S) if local and window > CHUNK else _window(start, S, window)
    if window is None and not mask.blocks and not local:
        if mask.lengths is None and mask.ids is not None:
            return _documents(mask, mask.ids, T, S)
        if mask.ids is None and mask.lengths is not None:
            return _prefix(mask.lengths, T, S)
    return _masked(mask, T, S)


def _triangle(start: int, a: int, b: int, low: int, batch: int | None = None) -> list[Piece]:
    """Queries at positions a..b-1, each seeing the keys from low to itself."""
    pieces = [Piece(a - start, b - a, a, b - a, "causal", batch=batch)]
    if a > low:
        pieces.append(Piece(a - start, b - a, low, a - low, batch=batch, adds=True))
    return pieces


def _steps(start: int, S: int, block: int | None) -> list[Piece]:
    """Causal or blockwise, in short runs of queries."""
    pieces = []
    a = start
    while a < S:
        own = 0 if block is None else a // block * block
        b = min(S, a + CHUNK) if block is None else min(S, a + CHUNK, own + block)
        pieces += _triangle(start, a, b, own)
        if block is not None and own > 0:
            pieces.append(Piece(a - start, b - a, own - block, block, adds=True, previous=True))
        a = b
    return pieces


def _blocks(start: int, S: int, h: int) -> list[Piece]:
    """Blockwise causal: a partial first block, the whole ones folded together, a partial last."""
    first, last = -(-start // h) * h, S // h * h
    if first > last:  # all queries inside one block
        spans = [(start, S, 1)]
    else:
        spans = [(start, first, 1), (first, last, (last - first) // h), (last, S, 1)]
    pieces = []
    for a, b, count in spans:
        if a == b:
            continue
        own, rows = a // h * h, (b - a) // count
        pieces.append(Piece(a - start, rows, a, rows, "causal", count, h))
        if a > own:
            pieces.append(Piece(a - start, rows, own, a - own, adds=True))
        skip = int(own == 0)  # block 0 has none before it
        if count > skip:
            query, key = a - start + skip * h, own + (skip - 1) * h
            pieces.append(
                Piece(query, rows, key, h, "all", count - skip, h, adds=True, previous=True)
            )
    return pieces


def _window(start: int, S: int, w: int) -> list[Piece]:
    """Sliding window in blocks of about w queries: own triangle, then what is left of the keys before."""
    h = max(w, SMALLEST)
    whole = (S - start) // h
    pieces = []
    for a, rows, count in ((start, h, whole), (start + whole * h, (S - start) % h, 1)):
        if rows == 0 or count == 0:
            continue
        kind = "causal" if rows <= w else "masked"
        pieces.append(Piece(a - start, rows, a, rows, kind, count, h))
        near = min(rows, w - 1)  # rows that still see keys before the block
        if near and a < w - 1:  # the first block lacks some or all of them
            if a > 0:
                pieces.append(Piece(a - start, near, 0, a, "masked", adds=True))
            a, count = a + h, count - 1
        if near and count:
            low = a - (w - 1)
            pieces.append(Piece(a - start, near, low, near, "after", count, h, adds=True))
            if near < w - 1:
                pieces.append(
                    Piece(a - start, near, low + near, w - 1 - near, "all", count, h, adds=True)
                )
    return pieces


def _documents(mask: Mask, ids: Tensor, T: int, S: int) -> list[Piece]:
    start = S - T
    pieces = []
    _, ends = documents(ids).bounds(S)
    for batch, row in enumerate(ends.reshape(-1, S)):
        sample = batch if ids.dim() == 2 else None
        first = 0
        for end in row.unique_consecutive().tolist():
            a = max(first, start)
            if a < end and mask.is_causal:
                pieces += _triangle(start, a, end, first, sample)
            elif a < end:
                pieces.append(Piece(a - start, end - a, first, end - first, batch=sample))
            first = end
    return pieces


def _prefix(lengths: Tensor, T: int, S: int) -> list[Piece]:
    start = S - T
    pieces = []
    for batch, length in enumerate(lengths.reshape(-1).tolist()):
        sample = batch if lengths.dim() else None
        both = max(start, min(length, S))  # queries from here on are causal
        if both > start:
            pieces.append(Piece(0, both - start, 0, both, batch=sample))
        if both < S:
            pieces += _triangle(start, both, S, 0, sample)
    return pieces


def _masked(mask: Mask, T: int, S: int) -> list[Piece]:
    """Any interval mask: CHUNK rows at a time against the keys between their bounds."""
    lo, hi = (x.reshape(-1, T).tolist() for x in mask.bounds(T, S))
    pieces = []
    for batch, (low, high) in enumerate(zip(lo, hi)):
        sample = batch if mask.batch is not None else None
        for a in range(0, T, CHUNK):
            b = min(a + CHUNK, T)
            pieces.append(Piece(a, b - a, low[a], high[b - 1] - low[a], "masked", batch=sample))
    return pieces
