"""Rotary positions with decay (xPos), one pass over the tensor: formulas in `reference.py`.

RoPE and xPos alike are one complex multiplication a pair, so `factors` and `rotate` serve both, in
float32 whatever the tensor's dtype. Ways to use them:

    q, k = xpos(q, k)                                       positions 0..S-1, one call, one centre
    k = rotate(k, factors(positions, D, scale_base=512, inverse=True))      a cache with a fixed centre
    q, q_previous, k = xpos_local(q, k, block)              window-local: exact at any length
    xpos_attention(q, k, v, mask)                           either, with the attention

Absolute positions overflow once 3.5^(|n - centre| / scale_base) leaves the dtype: 4.5k positions from the
centre in fp16, 36k in bf16 and fp32 (scale base 512). Window-local ones never do: they count from
the start of each key's own block, each key once and each query twice (for its own block, and for the
previous one, `block` further), and feeds attention(..., blockwise_causal(block), q_previous_BHTD=...).

Shapes: q (B, H, T, D), k (B, G, S, D) with T <= S, the queries at the last T of the S positions;
factors (T, D / 2, 2) float32, real and imaginary parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.attention.masks import Mask
from kernels.attention.op import attention
from kernels.dispatch import use_triton
from kernels.xpos import reference

IMPLS = ("auto", "reference", "triton")


def factors(
    positions_T: Tensor,
    head_dim: int,
    *,
    base: float = 10000.0,
    scale_base: float | None = None,
    centre: float = 0.0,
    inverse: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """e^(j theta n) zeta^((n - centre) / scale_base) as (T, D / 2, 2); inverse=True for xPos keys.

    scale_base None: RoPE, no decay. Angles are taken in float64, then rounded once to dtype.
    """
    complete = reference.factors(
        positions_T,
        head_dim,
        base=base,
        scale_base=scale_base,
        centre=centre,
        inverse=inverse,
    )
    return torch.view_as_real(complete).to(dtype)


def rotate(x_BHTD: Tensor, factors: Tensor, layout: str = "interleaved") -> Tensor:
    """x with each pair multiplied by its factor; x of any strides and dtype, the result in x's dtype.

    factors: (T, D / 2, 2), or anything whose first dimensions broadcast with x's.
    """
    _checked(layout)
    whole = x_BHTD.dim() == 4 and factors.dim() == 3
    if whole and not torch.compiler.is_compiling() and use_triton("rotate", "auto", x_BHTD):
        from kernels.xpos import triton

        return triton.rotate_op(x_BHTD, None, factors, factors, layout, False)[0]
    if layout == "interleaved" and not torch.compiler.is_compiling():
        return _RotatePairs.apply(x_BHTD, factors)
    real, imaginary = factors.unbind(-1)
    if layout == "half" and not torch.compiler.is_compiling():
        return _RotateHalf.apply(x_BHTD, real, imaginary)
    return _rotate_real(x_BHTD, real, imaginary, layout)


def xpos(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    *,
    offset: int = 0,
    scale_base: float | None = 512,
    base: float = 10000.0,
    layout: str = "interleaved",
    centre: float | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(q', k') at positions offset .. offset + S - 1; with fewer queries, q takes the last T of them.

    Scores q' . k' depend on distances only, so `offset` matters to a caller who mixes calls; then
    give `centre` as well. None is the middle, offset + S // 2, which leaves the factors the widest
    range. scale_base None is RoPE.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    T, S, D = q_BHTD.shape[-2], k_BGSD.shape[-2], q_BHTD.shape[-1]
    if T > S:
        raise ValueError(
            f"xpos: {T} queries but {S} keys: the queries must be the last of the keys"
        )
    centre = offset + S // 2 if centre is None else centre
    positions = torch.arange(offset, offset + S, device=q_BHTD.device)
    wide = torch.promote_types(q_BHTD.dtype, torch.float32)
    options: dict[str, Any] = dict(base=base, scale_base=scale_base, centre=centre)
    if impl == "reference":
        up = reference.factors(positions[S - T :], D, **options)
        down = reference.factors(positions, D, inverse=True, **options)
        return reference.rotate(q_BHTD, up, layout), reference.rotate(k_BGSD, down, layout)
    up = factors(positions[S - T :], D, dtype=wide, **options)
    down = factors(positions, D, inverse=True, dtype=wide, **options)
    if use_triton("xpos", impl, q_BHTD, k_BGSD):
        from kernels.xpos import triton

        return triton.rotate_op(q_BHTD, k_BGSD, up, down, _checked(layout), False)
    return rotate(q_BHTD, up, layout), rotate(k_BGSD, down, layout)


def local_factors(
    start: int,
    length: int,
    block: int,
    head_dim: int,
    *,
    base: float = 10000.0,
    scale_base: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """(own, previous, key) factors of positions start .. start + length - 1, each (length, D / 2, 2).

    Positions count from the start of the key's block; the centre is the block's middle, so that no
    factor leaves 3.5^(+-block / (2 scale_base)) but the previous-block one, which is smaller still.
    """
    n = torch.arange(block, device=device)
    options: dict[str, Any] = dict(base=base, scale_base=scale_base, centre=block / 2, dtype=dtype)
    place = torch.arange(start, start + length, device=device) % block
    own = factors(n, head_dim, **options)[place]
    previous = factors(n + block, head_dim, **options)[place]
    key = factors(n, head_dim, inverse=True, **options)[place]
    return own, previous, key


def xpos_local(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    block: int,
    *,
    offset: int = 0,
    scale_base: float | None = 512,
    base: float = 10000.0,
    layout: str = "interleaved",
) -> tuple[Tensor, Tensor, Tensor]:
    """(q_own, q_previous, k) for attention under blockwise_causal(block): finite at every length.

    offset must be a multiple of block (the mask's own grid); it changes nothing, by construction.
    """
    if offset % block:
        raise ValueError(f"xpos_local: offset {offset} must be a multiple of the block {block}")
    T, S, D = q_BHTD.shape[-2], k_BGSD.shape[-2], q_BHTD.shape[-1]
    own, previous, key = local_factors(
        0,
        S,
        block,
        D,
        base=base,
        scale_base=scale_base,
        device=q_BHTD.device,
        dtype=torch.promote_types(q_BHTD.dtype, torch.float32),
    )
    q_own = rotate(q_BHTD, own[S - T :], layout)
    q_previous = rotate(q_BHTD, previous[S - T :], layout)
    return q_own, q_previous, rotate(k_BGSD, key, layout)


def xpos_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask,
    *,
    scale_base: float | None = 512,
    base: float = 10000.0,
    layout: str = "interleaved",
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """attention of xpos'd q and k, (B, H, T, D): window-local under a blockwise mask, else centred.

    On a GPU and without gradients the queries are turned inside the attention kernel, so that only
    the keys are read and written once more. Everywhere else it is the composition of the two.
    """
    T, S, D = q_BHTD.shape[-2], k_BGSD.shape[-2], q_BHTD.shape[-1]
    mask = mask.within(S)
    local = mask.is_plain_blockwise and mask.block is not None
    options: dict[str, Any] = dict(scale_base=scale_base, base=base)
    tensors = (q_BHTD, k_BGSD, v_BGSD)
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not learning and use_triton("xpos_attention", impl, *tensors):
        from kernels.xpos import triton

        if local and mask.block is not None:
            own, previous, down = local_factors(
                0, S, mask.block, D, device=q_BHTD.device, **options
            )
            up = [own[S - T :], previous[S - T :]]
        else:
            positions = torch.arange(S, device=q_BHTD.device)
            options["centre"] = S // 2
            up = [factors(positions[S - T :], D, **options)]
            down = factors(positions, D, inverse=True, **options)
        mask = mask.to(q_BHTD.device)
        scale = float(D**-0.5) if scale is None else scale
        return triton.attention_op(*tensors, up, down, _checked(layout), scale, *mask.fields())
    previous = None
    if local and mask.block is not None:
        q, previous, k = xpos_local(q_BHTD, k_BGSD, mask.block, layout=layout, **options)
    else:
        q, k = xpos(q_BHTD, k_BGSD, layout=layout, impl=impl, **options)
    return attention(q, k, v_BGSD, mask, scale=scale, q_previous_BHTD=previous, impl=impl)


def _checked(layout: str) -> str:
    if layout not in ("interleaved", "half"):
        raise ValueError(f'layout must be "interleaved" or "half", got {layout!r}')
    return layout


def _rotate_real(x: Tensor, real: Tensor, imaginary: Tensor, layout: str) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, real.dtype))
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1) if layout == "interleaved" else wide.chunk(2, -1)
    turned = (a * real - b * imaginary, b * real + a * imaginary)
    both = torch.stack(turned, -1).flatten(-2) if layout == "interleaved" else torch.cat(turned, -1)
    return both.to(x.dtype)


class _RotatePairs(torch.autograd.Function):
    """Interleaved rotation as one complex product; its backward is that by the conjugate factors."""

    @staticmethod
    def forward(ctx, x, factors):
        ctx.save_for_backward(factors)
        return _rotate_pairs(x, factors)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (factors,) = ctx.saved_tensors
        return _rotate_pairs(grad, factors * factors.new_tensor([1.0, -1.0])), None


def _rotate_pairs(x: Tensor, factors: Tensor) -> Tensor:
    """One widening copy, then the product in place.

    Where heads lie side by side in memory (a projection's output), each token's heads are taken as
    one long row: rows as short as a head would leave the vector units idle.
    """
    wide = torch.promote_types(x.dtype, factors.dtype)
    if x.dim() == 4 and factors.dim() == 3 and x.stride(1) == x.shape[3] and x.stride(3) == 1:
        B, H, T, D = x.shape
        rows = x.transpose(1, 2).flatten(2).to(wide, copy=True)
        pairs = torch.view_as_complex(rows.view(B, T, H * D // 2, 2))
        pairs.mul_(torch.view_as_complex(factors.repeat(1, H, 1)))
        return rows.view(B, T, H, D).transpose(1, 2).to(x.dtype)
    rows = x.to(wide, copy=True, memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(rows.unflatten(-1, (-1, 2)))
    pairs.mul_(torch.view_as_complex(factors.contiguous()))
    return rows.to(x.dtype)


class _RotateHalf(torch.autograd.Function):
    """Half-split rotation whose backward is the rotation by the conjugate: nothing of x is kept."""

    @staticmethod
    def forward(ctx, x, real, imaginary):
        ctx.save_for_backward(real, imaginary)
        return _rotate_halves(x, real, imaginary)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        real, imaginary = ctx.saved_tensors
        return _rotate_halves(grad, real, -imaginary), None, None


def _rotate_halves(x: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, real.dtype))
    out = torch.empty_like(wide)
    (a, b), (c, d) = wide.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, real, out=c).addcmul_(b, imaginary, value=-1)
    torch.mul(b, real, out=d).addcmul_(a, imaginary)
    return out.to(x.dtype)
