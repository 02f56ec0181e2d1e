"""What the attention kernels share: loading tiles, reading a mask's bounds, and tile sizes."""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.masks import Mask

LOG2E = 1.4426950408889634
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def row_bounds(
    rows, lo_ptr, hi_ptr, T, S, window, block, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK: tl.constexpr, TABLE: tl.constexpr,
):  # fmt: skip
    """lo and hi of query rows, one or many; rows past the last see nothing."""
    if TABLE:
        lo = tl.load(lo_ptr + rows, mask=rows < T, other=2147483647)
        hi = tl.load(hi_ptr + rows, mask=rows < T, other=0)
    else:
        t = rows + (S - T)
        lo = t * 0
        if WINDOW:
            lo = tl.maximum(lo, t - window + 1)
        if BLOCK:
            lo = tl.maximum(lo, (t // block - 1) * block)
        hi = t * 0 + S
        if CAUSAL:
            hi = tl.minimum(hi, t + 1)
    return lo, hi


@triton.jit
def load_rows(
    base,
    start,
    stride,
    limit,
    D: tl.constexpr,
    BD: tl.constexpr,
    N: tl.constexpr,
    CHECK: tl.constexpr,
):
    """N rows of D from row `start`; 0 past `limit` where CHECK, and in the padding past D."""
    n = tl.arange(0, N)
    d = tl.arange(0, BD)
    place = base + tl.cast(start, tl.int64) * stride + ((n * stride)[:, None] + d[None, :])
    if CHECK:
        if D == BD:
            return tl.load(place, mask=(start + n < limit)[:, None], other=0.0)
        return tl.load(place, mask=(start + n < limit)[:, None] & (d < D)[None, :], other=0.0)
    if D == BD:
        return tl.load(place)
    return tl.load(place, mask=(d < D)[None, :], other=0.0)


@triton.jit
def store_rows(base, x, start, stride, limit, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr):
    """Writes N rows of D numbers from row `start` on, those before `limit`, in base's dtype."""
    n = tl.arange(0, N)
    d = tl.arange(0, BD)
    place = base + tl.cast(start, tl.int64) * stride + ((n * stride)[:, None] + d[None, :])
    keep = (start + n < limit)[:, None] & (d < D)[None, :]
    tl.store(place, x.to(base.dtype.element_ty), mask=keep)


@triton.jit
def key_ranges(begin, lo_z, hi_a, hi_z, spare, BN: tl.constexpr, LEFT: tl.constexpr):
    """(after, middle): tiles of BN keys from `begin` to `after` hold keys that some rows do not see
    at the low end, those up to `middle` every row sees whole, the rest end in keys not seen.

    spare: keys before hi_a to count as not seen. LEFT: the mask has a low end at all.
    """
    after = begin
    if LEFT:
        tiles = tl.cdiv(tl.maximum(lo_z - begin, 0), BN)
        after = begin + tl.minimum(tiles, tl.cdiv(hi_z - begin, BN)) * BN
    return after, after + tl.maximum(hi_a - spare - after, 0) // BN * BN


@triton.jit
def biased(qk, t, s, slope, SLOPES: tl.constexpr):
    """Scores with ALiBi, both before the scale: slope comes divided by it."""
    if SLOPES:
        return qk - slope * tl.abs(t[:, None] - s[None, :]).to(tl.float32)
    return qk


@dataclass(frozen=True)
class Limits:
    """A mask as kernel arguments. rows: what row_bounds takes; the tables are (samples or 1, T)."""

    lo: Tensor
    hi: Tensor
    table_stride: int
    window: int
    block: int
    flags: dict[str, bool]


def limits(mask: Mask, T: int, S: int, q: Tensor) -> Limits:
    """What the kernels need of a mask over T queries and S keys: a table only where no rule says it."""
    table = mask.per_sample or len(mask.blocks) > 1
    lo = hi = torch.empty(1, dtype=torch.int32, device=q.device)
    if table:
        lo, hi = (x.reshape(-1, T).to(torch.int32) for x in mask.bounds(T, S, q.device))
    return Limits(
        lo,
        hi,
        T if table and lo.shape[0] > 1 else 0,
        mask.window or 1,
        mask.block or 1,
        dict(
            CAUSAL=mask.is_causal,
            WINDOW=mask.window is not None and not table,
            BLOCK=bool(mask.blocks) and not table,
            TABLE=table,
        ),
    )


@dataclass(frozen=True)
class Tiles:
    """BM query rows by BN keys a step, and how the loop is scheduled."""

    BM: int
    BN: int
    warps: int
    stages: int


def padded(D: int) -> int:
    """The power of two that a head of size D is loaded as."""
    return max(16, triton.next_power_of_2(D))


def tiles(narrow: dict[int, Tiles], wide: dict[int, Tiles], D: int, dtype: torch.dtype) -> Tiles:
    """The tiles for heads of D numbers: `wide` for float32, `narrow` for 16 bits; small ones on a CPU."""
    if INTERPRETED:
        return Tiles(32, 32, 4, 1)
    return (wide if dtype == torch.float32 else narrow)[padded(D)]


def alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y with one set of strides, the last of them 1; copied only where they have not."""
    if x.stride() == y.stride() and x.stride(-1) == 1:
        return x, y
    return x.contiguous(), y.contiguous()


def dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with rows that lie dense, as the kernels read them."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def by_heads(B: int, H: int, T: int, D: int, like: Tensor) -> Tensor:
    """An empty (B, H, T, D) that lies in memory as (B, T, H, D), ready for the output projection."""
    return like.new_empty(B, T, H, D).transpose(1, 2)


def precision(dtype: torch.dtype) -> str:
    """Triton's input_precision of a product: exact for float32, which tensor cores would round."""
    return "ieee" if dtype == torch.float32 else "tf32"


def per_query_head(k_BGSD: Tensor, H: int) -> Tensor:
    """Room for the gradient of k from each of H query heads: its own dtype where none is shared."""
    B, G, S, D = k_BGSD.shape
    like = k_BGSD if G == H else k_BGSD.new_empty(0, dtype=torch.float32)
    return by_heads(B, H, S, D, like)


def shared(dk_BHSD: Tensor, G: int, dtype: torch.dtype) -> Tensor:
    """The gradient of G key heads: the sum over the query heads that share each."""
    if dk_BHSD.shape[1] == G:
        return dk_BHSD
    summed = dk_BHSD.unflatten(1, (G, -1)).sum(2).to(dtype)
    return summed.transpose(1, 2).contiguous().transpose(1, 2)


def shape_of(tile: Tiles, D: int, dtype: torch.dtype) -> dict:
    """What every kernel takes of its tile."""
    return dict(
        D=D,
        BD=padded(D),
        BM=tile.BM,
        BN=tile.BN,
        PRECISION=precision(dtype),
        num_warps=tile.warps,
        enable_fp_fusion=True,
        num_stages=tile.stages,
    )


def base_two(slopes: Tensor | None, scale: float, q: Tensor) -> Tensor:
    """Slopes to subtract from scores before these are multiplied by scale."""
    return q.new_empty(1, dtype=torch.float32) if slopes is None else slopes.float() / scale
