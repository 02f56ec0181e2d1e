"""The rows that need a CUDA device: bf16, D 64 and 128, against kernels that the field uses.

Baselines, each named by the operator that ran: FlexAttention, compiled, under the same mask; torch's
scaled_dot_product_attention pinned to cuDNN or to FlashAttention-2; the same kernel without xPos; a
plain copy. `rows()` measures, `unmeasured()` lists the same rows without values.

Every tensor holds 2048 / D heads and at least 16k tokens (64 MiB, above the L2 cache), laid out as a
projection leaves them, (B, T, H, D). Forwards run without autograd, backwards on a kept graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from kernels.attention import reference
from kernels.attention.masks import Mask, blockwise_causal, causal
from kernels.attention.op import attention
from kernels.bench.measure import (
    TAIL,
    Attend,
    Clock,
    Row,
    backward_of,
    check,
    check_tail,
    interleaved,
    median,
    poisoned,
)
from kernels.bench.measure import ratio as ratio_of
from kernels.momentum.op import momentum
from kernels.myopic.op import myopic_attention
from kernels.xpos.op import factors, xpos_attention

DEVICE = "cuda"
DTYPE = torch.bfloat16
WIDTH = 2048  # heads * head size
TOKENS = 16384
BLOCK = 512
ROUNDS = 30
ROUNDINGS = 4  # of bf16, of the largest value: what its matmuls are off by
OURS, MYOPIC = "ours", "ours, myopic"
FLEX, CUDNN, FA2 = "FlexAttention", "cuDNN SDPA", "FlashAttention-2 SDPA"
OPERATORS = {CUDNN: "CudnnAttention", FA2: "FlashAttention"}  # as autograd names what ran
BACKENDS = {CUDNN: SDPBackend.CUDNN_ATTENTION, FA2: SDPBackend.FLASH_ATTENTION}
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Group:
    """Rows that one run measures together; measure() gives their values in order."""

    rows: tuple[Row, ...]
    measure: Callable[[], Sequence[float | None]]


def rows() -> Iterator[Row]:
    """Every row measured. Needs a CUDA device; RuntimeError where a result is wrong."""
    # FlexAttention's compiled backward runs many times on one graph: it must keep what it was given.
    with torch._functorch.config.patch(donated_buffer=False):  # type: ignore[attr-defined]
        for group in groups():
            values = group.measure()
            yield from (replace(r, value=x) for r, x in zip(group.rows, values, strict=True))
            torch.cuda.empty_cache()


def unmeasured() -> Iterator[Row]:
    """The same rows without values, on any machine."""
    for group in groups():
        yield from group.rows


def groups() -> Iterator[Group]:
    yield _ceilings()
    for D in (64, 128):
        for T in (2048, 8192, 16384, 65536):
            yield _blockwise(T, D)
        for T in (2048, 8192, 16384):
            yield _causal(T, D)
        for T, goal in ((2048, 1.10), (8192, 1.04)):
            yield _rotary(T, D, goal)
        yield _myopic(8192, D)
        yield _momentum(65536, D)


def draw(T: int, D: int) -> tuple[Tensor, ...]:
    shape = (max(1, TOKENS // T), T, WIDTH // D, D)
    return tuple(
        torch.randn(shape, device=DEVICE, dtype=DTYPE).transpose(1, 2).requires_grad_()
        for _ in range(3)
    )


def row(name: str, T: int, D: int, baseline: str, goal: float | None, **options) -> Row:
    B, H = max(1, TOKENS // T), WIDTH // D
    shape = f"T {T // 1024}k, D {D}, batch {B}, {H} heads, bf16"
    return Row(DEVICE, name, shape, baseline, None, goal, **options)


def flex(mask: Mask, T: int) -> Attend:
    """FlexAttention compiled for the mask, which is causal() or one blockwise_causal(block)."""
    h = mask.block or T

    def sees(b, head, query, key):
        return (query >= key) & (key >= (query // h - 1) * h)

    torch._dynamo.reset()  # one function, many masks and lengths: past a limit it would not compile
    blocks = create_block_mask(sees, None, None, T, T, device=DEVICE)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def sdpa(backend: str) -> Attend:
    """Causal scaled_dot_product_attention by this backend and no other."""

    def call(q, k, v):
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return call


def ours(mask: Mask) -> Attend:
    return lambda q, k, v: attention(q, k, v, mask, impl="triton")


def exact(mask: Mask) -> Attend:
    return lambda q, k, v: reference.attention(q, k, v, mask)[0]


def checked(calls: dict[str, Attend], inputs: tuple[Tensor, ...], mask: Mask) -> dict[str, Attend]:
    """The calls that this machine can run, each compared with the reference at the length timed."""
    able = {}
    for name, call in calls.items():
        if name in BACKENDS and not _runs(name, call, inputs):
            continue
        want = _myopically if name == MYOPIC else exact(mask)
        poison = name in (OURS, MYOPIC)  # other people's kernels may mind the mode that poisons
        check_tail(name, call, want, inputs, roundings=ROUNDINGS, poison=poison)
        able[name] = call
    return able


def _myopically(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return myopic_attention(q, k, v, impl="reference")


def _runs(name: str, call: Attend, inputs: tuple[Tensor, ...]) -> bool:
    """Whether torch has this backend for these inputs; RuntimeError if it took another one."""
    try:
        out = call(*inputs)
    except RuntimeError as problem:
        print(f"{name} cannot run here: {str(problem).splitlines()[0]}", file=sys.stderr)
        return False
    operator = type(out.grad_fn).__name__
    if OPERATORS[name] not in operator:
        raise RuntimeError(f"{name} was asked for, {operator} ran")
    return True


def time_forwards(calls: dict[str, Attend], inputs: tuple[Tensor, ...]) -> Times:
    fixed = tuple(x.detach() for x in inputs)
    runs = {name: lambda call=call: call(*fixed) for name, call in calls.items()}
    with torch.no_grad():
        return interleaved(runs, Clock(DEVICE), ROUNDS)


def time_backwards(calls: dict[str, Attend], inputs: tuple[Tensor, ...]) -> Times:
    runs = {name: backward_of(call(*inputs), inputs) for name, call in calls.items()}
    return interleaved(runs, Clock(DEVICE), ROUNDS)


def ratio(times: Times, over: str, under: str) -> float | None:
    """None where the machine has not got one of the two."""
    return ratio_of(times, over, under) if over in times and under in times else None


def _ceilings() -> Group:
    copied = Row(DEVICE, "copy, read and written", "512 MiB", "-", None, None, unit=" TB/s")
    product = Row(DEVICE, "matmul", "8192 x 8192, bf16", "-", None, None, unit=" TFLOP/s")

    def measure():
        x = torch.empty(2**28, device=DEVICE, dtype=DTYPE).normal_()
        room = torch.empty_like(x)
        a, b = (torch.empty(8192, 8192, device=DEVICE, dtype=DTYPE).normal_() for _ in range(2))
        calls = {"copy": lambda: room.copy_(x), "product": lambda: a @ b}
        times = interleaved(calls, Clock(DEVICE), ROUNDS)
        moved = 2 * x.numel() * x.element_size()
        return moved / median(times, "copy") / 1e12, 2 * 8192**3 / median(times, "product") / 1e12

    return Group((copied, product), measure)


def _blockwise(T: int, D: int) -> Group:
    name = f"BCA (h {BLOCK})"
    shown = [
        row(f"{name} forward", T, D, f"{FLEX}, same mask", 1.00),
        row(f"{name} backward", T, D, f"{FLEX}, same mask", 0.85),
    ]
    if T == 8192:
        shown.append(row(f"{name} forward", T, D, f"{CUDNN}, full causal", 0.28))

    def measure():
        inputs, mask = draw(T, D), blockwise_causal(BLOCK)
        calls = checked({OURS: ours(mask), FLEX: flex(mask, T)}, inputs, mask)
        full = checked({CUDNN: sdpa(CUDNN)}, inputs, causal()) if T == 8192 else {}
        forwards = time_forwards(calls | full, inputs)
        backwards = time_backwards(calls, inputs)
        values = [ratio(forwards, OURS, FLEX), ratio(backwards, OURS, FLEX)]
        return [*values, ratio(forwards, OURS, CUDNN)] if T == 8192 else values

    return Group(tuple(shown), measure)


def _causal(T: int, D: int) -> Group:
    goals = {CUDNN: 1.15 if D == 64 else 1.4, FA2: None}
    shown = tuple(row("causal forward", T, D, name, goal) for name, goal in goals.items())

    def measure():
        inputs = draw(T, D)
        calls = {OURS: ours(causal()), **{name: sdpa(name) for name in goals}}
        forwards = time_forwards(checked(calls, inputs, causal()), inputs)
        return [ratio(forwards, OURS, name) for name in goals]

    return Group(shown, measure)


def _rotary(T: int, D: int, goal: float) -> Group:
    shown = row("causal forward with xPos", T, D, "the same kernel without", goal)

    def measure():
        from kernels.xpos import triton

        # A model makes its tables once.
        n, options = torch.arange(T, device=DEVICE), dict(scale_base=512, centre=T // 2)
        up, down = factors(n, D, **options), factors(n, D, inverse=True, **options)

        def fused(q, k, v):
            rest = ("interleaved", D**-0.5, *causal().fields())
            return triton.attention_op(q, k, v, [up], down, *rest)

        inputs = tuple(x.detach() for x in draw(T, D))
        with poisoned():
            got = fused(*inputs)[:1, :1, -TAIL:]
        q, k, v = (x[:1, :1].double() for x in inputs)
        want = xpos_attention(q[:, :, -TAIL:], k, v, causal(), impl="reference")
        check("xPos in attention", got, want, ROUNDINGS)
        times = time_forwards({"with": fused, "without": ours(causal())}, inputs)
        return [ratio(times, "with", "without")]

    return Group((shown,), measure)


def _myopic(T: int, D: int) -> Group:
    goals = {FLEX: 0.50, FA2: 0.60, CUDNN: 0.85 if D == 64 else None}
    shown = tuple(row("myopic backward", T, D, f"{x}, standard", g) for x, g in goals.items())

    def measure():
        inputs = draw(T, D)
        calls = {
            MYOPIC: lambda q, k, v: myopic_attention(q, k, v, impl="triton"),
            FLEX: flex(causal(), T),
            **{name: sdpa(name) for name in BACKENDS},
        }
        times = time_backwards(checked(calls, inputs, causal()), inputs)
        return [ratio(times, MYOPIC, name) for name in goals]

    return Group(shown, measure)


def _momentum(T: int, D: int) -> Group:
    shown = row("momentum scan", T, D, "a copy's bandwidth", 0.75, at_most=False)

    def measure():
        v = draw(T, D)[0].detach()
        with poisoned():
            got = momentum(v, 0.9, impl="triton")[0][:1, :2, -TAIL:]
        eta = float(torch.tensor(0.9))  # as float32 holds it; 0.9^1024 is far below any rounding
        part = v[:1, :2, -TAIL - 1024 :].double()
        want = momentum(part, eta, impl="reference")[0][:, :, -TAIL:]
        check("momentum", got, want, ROUNDINGS)
        room = torch.empty_like(v)
        runs = {"copy": lambda: room.copy_(v), "scan": lambda: momentum(v, 0.9, impl="triton")}
        return [ratio(interleaved(runs, Clock(DEVICE), ROUNDS), "copy", "scan")]

    return Group((shown,), measure)
