"""The momentum scan on a GPU: y_t = sum_{s<t} g a^(t-1-s) x_s + a^t y_0, s in t's document.

T is split into segments of SEGMENT rows, one program each, for the recurrence alone would keep only
B * H programs busy. A program enters its segment with the state that it rebuilds from the `halo` rows
before it (a^halo below the precision, chosen by the caller who knows a), or with one carried from all
segments before, from a first pass over x and a short serial pass over segments. Inside, chunks of
CHUNK rows: one matmul by the decaying lower triangle, plus the decayed state. Half-precision inputs
meet the triangle split in two (its rounded value and the rest), so that its rounding does not show.

REVERSE runs time from the last row to the first: that is the backward. Shapes: x, y (B, H, T, D); a
and gain (1 or H,) float32; runs (1 or B, T) int32, equal within a document; states (B, H, D) float32.
"""

# What triton.jit compiles is not the Python that a type checker reads.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.tiles import INTERPRETED, by_heads, dense, padded, precision

CHUNK = 16 if INTERPRETED else 64
SEGMENT = 32 if INTERPRETED else 512
HALO = 64 if INTERPRETED else 1024  # rebuild the state from at most this many rows
WARPS = 4


@triton.jit
def power(log_a, n):
    """a^n for n >= 0, given log2(a)."""
    return tl.math.exp2(log_a * tl.cast(n, tl.float32))


@triton.jit
def load_chunk(
    x_ptr, runs_ptr, start, stride, T, D: tl.constexpr, d, CHUNK: tl.constexpr,
    REVERSE: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """Rows at times start .. start + CHUNK - 1 (0 past T), and their documents."""
    time = start + tl.arange(0, CHUNK)
    rows = time
    if REVERSE:
        rows = T - 1 - time
    inside = time < T
    place = x_ptr + rows[:, None].to(tl.int64) * stride + d[None, :]
    x = tl.load(place, mask=inside[:, None] & (d < D)[None, :], other=0.0)
    runs = time * 0
    if RUNS:
        runs = tl.load(runs_ptr + rows, mask=inside, other=-1)
    return x, runs


@triton.jit
def run_at(runs_ptr, time, T, REVERSE: tl.constexpr, RUNS: tl.constexpr):
    run = time * 0
    if RUNS:
        row = time
        if REVERSE:
            row = T - 1 - time
        run = tl.load(runs_ptr + row)
    return run


@triton.jit
def advance(state, run, x, runs, last_run, count, log_a, gain, CHUNK: tl.constexpr):
    """The state after `count` more rows, all in the document of the last of them."""
    left = count - 1 - tl.arange(0, CHUNK)
    weights = tl.where((left >= 0) & (runs == last_run), power(log_a, left), 0.0) * gain
    state = tl.where(run == last_run, state * power(log_a, count), 0.0)
    return state + tl.sum(x.to(tl.float32) * weights[:, None], 0)


@triton.jit
def ends_kernel(
    x_ptr, ends_ptr, a_ptr, runs_ptr, stride_xb, stride_xh, stride_xt, runs_stride, a_stride, T, H,
    D: tl.constexpr, BW: tl.constexpr, SEGMENT: tl.constexpr, CHUNK: tl.constexpr,
    GAIN: tl.constexpr, REVERSE: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """What each segment alone leaves: ends (B, H, segments, D); grid (segments, B * H, D tiles)."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    d = tl.program_id(2) * BW + tl.arange(0, BW)
    a = tl.load(a_ptr + h * a_stride)
    log_a = tl.math.log2(tl.maximum(a, 1e-37))
    gain = 1.0
    if GAIN:
        gain = a
    begin = tl.program_id(0) * SEGMENT
    end = tl.minimum(begin + SEGMENT, T)
    x_ptr += b * stride_xb + h * stride_xh
    runs_ptr += b * runs_stride
    state = tl.zeros([BW], tl.float32)
    run = run_at(runs_ptr, begin, T, REVERSE, RUNS)
    for start in tl.range(begin, end, CHUNK):
        x, runs = load_chunk(x_ptr, runs_ptr, start, stride_xt, T, D, d, CHUNK, REVERSE, RUNS)
        count = tl.minimum(CHUNK, end - start)
        last_run = run_at(runs_ptr, start + count - 1, T, REVERSE, RUNS)
        state = advance(state, run, x, runs, last_run, count, log_a, gain, CHUNK)
        run = last_run
    place = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * D + d
    tl.store(ends_ptr + place, state, mask=d < D)


@triton.jit
def carry_kernel(
    ends_ptr, start_ptr, a_ptr, runs_ptr, runs_stride, a_stride, T, H, segments,
    D: tl.constexpr, BW: tl.constexpr, SEGMENT: tl.constexpr, REVERSE: tl.constexpr,
    RUNS: tl.constexpr,
):  # fmt: skip
    """Replaces each segment's end by the state that enters it; grid (B * H, D tiles)."""
    b = (tl.program_id(0) // H).to(tl.int64)
    h = tl.program_id(0) % H
    d = tl.program_id(1) * BW + tl.arange(0, BW)
    log_a = tl.math.log2(tl.maximum(tl.load(a_ptr + h * a_stride), 1e-37))
    runs_ptr += b * runs_stride
    head = tl.program_id(0).to(tl.int64)
    state = tl.load(start_ptr + head * D + d, mask=d < D, other=0.0)
    ends_ptr += head * segments * D + d
    for i in range(0, segments):
        end = tl.load(ends_ptr, mask=d < D, other=0.0)
        tl.store(ends_ptr, state, mask=d < D)
        before = run_at(runs_ptr, tl.maximum(i * SEGMENT - 1, 0), T, REVERSE, RUNS)
        count = tl.minimum(SEGMENT, T - i * SEGMENT)
        after = run_at(runs_ptr, i * SEGMENT + count - 1, T, REVERSE, RUNS)
        state = end + tl.where(before == after, state * power(log_a, count), 0.0)
        ends_ptr += D


@triton.jit
def scan_kernel(
    x_ptr, y_ptr, start_ptr, carry_ptr, last_ptr, a_ptr, runs_ptr,
    stride_xb, stride_xh, stride_xt, stride_yb, stride_yh, stride_yt,
    runs_stride, a_stride, T, H, halo,
    D: tl.constexpr, BW: tl.constexpr, SEGMENT: tl.constexpr, CHUNK: tl.constexpr,
    GAIN: tl.constexpr, REVERSE: tl.constexpr, RUNS: tl.constexpr, CARRY: tl.constexpr,
    HALF: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y, and y_T in `last`; grid (segments, B * H, D tiles)."""
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    d = tl.program_id(2) * BW + tl.arange(0, BW)
    head = tl.program_id(1).to(tl.int64)
    a = tl.load(a_ptr + h * a_stride)
    log_a = tl.math.log2(tl.maximum(a, 1e-37))
    gain = 1.0
    if GAIN:
        gain = a
    x_ptr += b * stride_xb + h * stride_xh
    y_ptr += b * stride_yb + h * stride_yh
    runs_ptr += b * runs_stride
    begin = tl.program_id(0) * SEGMENT
    end = tl.minimum(begin + SEGMENT, T)
    if CARRY:
        place = carry_ptr + (head * tl.num_programs(0) + tl.program_id(0)) * D + d
        state = tl.load(place, mask=d < D, other=0.0)
        run = run_at(runs_ptr, tl.maximum(begin - 1, 0), T, REVERSE, RUNS)
    else:
        since = tl.maximum(begin - halo, 0)
        state = tl.load(start_ptr + head * D + d, mask=(d < D) & (d * 0 + since == 0), other=0.0)
        run = run_at(runs_ptr, since, T, REVERSE, RUNS)
        for start in tl.range(since, begin, CHUNK):
            x, runs = load_chunk(x_ptr, runs_ptr, start, stride_xt, T, D, d, CHUNK, REVERSE, RUNS)
            last_run = run_at(runs_ptr, start + CHUNK - 1, T, REVERSE, RUNS)
            state = advance(state, run, x, runs, last_run, CHUNK, log_a, gain, CHUNK)
            run = last_run
    t = tl.arange(0, CHUNK)
    distance = t[:, None] - 1 - t[None, :]
    triangle = tl.where(distance >= 0, power(log_a, distance), 0.0) * gain
    decay = power(log_a, t)
    for start in tl.range(begin, end, CHUNK):
        x, runs = load_chunk(x_ptr, runs_ptr, start, stride_xt, T, D, d, CHUNK, REVERSE, RUNS)
        within = triangle
        entering = decay
        if RUNS:
            within = tl.where(runs[:, None] == runs[None, :], triangle, 0.0)
            entering = tl.where(runs == run, decay, 0.0)
        y = entering[:, None] * state[None, :]
        rounded = within.to(x.dtype)
        y = tl.dot(rounded, x, y, input_precision=PRECISION)
        if HALF:
            rest = (within - rounded.to(tl.float32)).to(x.dtype)
            y = tl.dot(rest, x, y, input_precision=PRECISION)
        time = start + t
        rows = time
        if REVERSE:
            rows = T - 1 - time
        out = y_ptr + rows[:, None].to(tl.int64) * stride_yt + d[None, :]
        tl.store(out, y.to(y_ptr.dtype.element_ty), mask=(time < T)[:, None] & (d < D)[None, :])
        count = tl.minimum(CHUNK, end - start)
        last_run = run_at(runs_ptr, start + count - 1, T, REVERSE, RUNS)
        state = advance(state, run, x, runs, last_run, count, log_a, gain, CHUNK)
        run = last_run
    if end == T:
        tl.store(last_ptr + head * D + d, state, mask=d < D)


def halo_for(eta: float, dtype: torch.dtype) -> int | None:
    """Rows after which eta^n is far below a rounding of dtype, in whole chunks; None when they are
    too many."""
    if eta <= 0:
        return CHUNK
    bits = 30 if dtype == torch.float32 else 18
    rows = math.inf if eta >= 1 else bits / -math.log2(eta)
    return None if rows > HALO else math.ceil(rows / CHUNK) * CHUNK


def scan(
    x: Tensor,
    a: Tensor,
    start: Tensor,
    runs: Tensor | None,
    *,
    gain: bool,
    reverse: bool = False,
    halo: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """(y, y_T). gain: g = a, else 1. halo: rows that determine a state, None to carry it exactly."""
    B, H, T, D = x.shape
    (x,) = dense(x)
    y = by_heads(B, H, T, D, x if dtype is None else x.new_empty(0, dtype=dtype))
    last = torch.empty_like(start)
    segments = triton.cdiv(T, SEGMENT)
    width = min(64, padded(D))
    tiles = triton.cdiv(D, width)
    a_stride = int(a.numel() > 1)
    runs_stride = T if runs is not None and runs.shape[0] > 1 else 0
    table = a if runs is None else runs
    shape: dict = dict(D=D, BW=width, SEGMENT=SEGMENT, REVERSE=reverse, RUNS=runs is not None)
    carry = start
    if halo is None and segments > 1:
        carry = start.new_empty(B, H, segments, D)
        ends_kernel[(segments, B * H, tiles)](
            x, carry, a, table, *x.stride()[:3], runs_stride, a_stride, T, H,
            CHUNK=CHUNK, GAIN=gain, num_warps=WARPS, enable_fp_fusion=True, **shape,
        )  # fmt: skip
        carry_kernel[(B * H, tiles)](
            carry,
            start,
            a,
            table,
            runs_stride,
            a_stride,
            T,
            H,
            segments,
            num_warps=1,
            enable_fp_fusion=True,
            **shape,
        )
    scan_kernel[(segments, B * H, tiles)](
        x, y, start, carry, last, a, table, *x.stride()[:3], *y.stride()[:3],
        runs_stride, a_stride, T, H, halo or 0,
        CHUNK=CHUNK, GAIN=gain, CARRY=halo is None and segments > 1,
        HALF=x.dtype != torch.float32, PRECISION=precision(x.dtype),
        num_warps=WARPS if runs is None else 2 * WARPS, num_stages=3, enable_fp_fusion=True,
        **shape,
    )  # fmt: skip
    return y, last


@torch.library.custom_op("transformer_zoo::momentum_triton", mutates_args=())
def momentum(
    v: Tensor, eta: Tensor, state: Tensor, runs: Tensor | None, halo: int | None
) -> tuple[Tensor, Tensor]:
    """(m, following)."""
    return scan(v, eta, state.contiguous(), runs, gain=True, halo=halo)


@torch.library.custom_op("transformer_zoo::momentum_triton_backward", mutates_args=())
def momentum_backward(
    grad_m: Tensor,
    grad_following: Tensor,
    v: Tensor,
    m: Tensor,
    eta: Tensor,
    runs: Tensor | None,
    halo: int | None,
    need_eta: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v, eta (zeros unless needed) and state."""
    if not need_eta:  # eta r is itself such a sum: one pass
        start = (grad_following * eta[:, None]).contiguous()
        dv, _ = scan(grad_m, eta, start, runs, gain=True, reverse=True, halo=halo)
        return dv, torch.zeros_like(eta), grad_m[:, :, 0].float() + dv[:, :, 0].float()
    start = grad_following.contiguous()
    exact = dict(gain=False, reverse=True, halo=halo, dtype=torch.float32)
    r, grad_state = scan(grad_m, eta, start, runs, **exact)
    per_head = (r * (m.float() + v.float())).sum((0, 2, 3))
    grad_eta = per_head if eta.numel() > 1 else per_head.sum(0, keepdim=True)
    return (r * eta[:, None, None]).to(v.dtype), grad_eta, grad_state


@momentum.register_fake
def _(v, eta, state, runs, halo):
    return by_heads(*v.shape, v), torch.empty_like(state)


@momentum_backward.register_fake
def _(grad_m, grad_following, v, m, eta, runs, halo, need_eta):
    return (
        by_heads(*v.shape, v),
        torch.empty_like(eta),
        grad_following.new_empty(grad_following.shape),
    )


def _setup(ctx, inputs, output):
    v, eta, _, runs, ctx.halo = inputs
    ctx.need_eta = eta.requires_grad
    ctx.save_for_backward(
        v if ctx.need_eta else None, output[0] if ctx.need_eta else None, eta, runs
    )


def _backward(ctx, grad_m, grad_following):
    v, m, eta, runs = ctx.saved_tensors
    v, m = (grad_m, grad_m) if v is None else (v, m)  # unused, but the operator takes tensors
    grads = momentum_backward(grad_m, grad_following, v, m, eta, runs, ctx.halo, ctx.need_eta)
    return *grads, None, None


momentum.register_autograd(_backward, setup_context=_setup)
