"""The rows that a CPU can measure: float32, one thread, CPU time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import reference
from kernels.attention.masks import Mask, blockwise_causal, sliding_window
from kernels.attention.op import attention
from kernels.bench.measure import (
    TAIL,
    Clock,
    Row,
    backward_of,
    both_of,
    check,
    check_tail,
    interleaved,
    median,
    peak_growth,
    poisoned,
    ratio,
)
from kernels.cross_entropy.op import linear_cross_entropy
from kernels.momentum.op import momentum
from kernels.myopic.op import myopic_attention
from kernels.xpos.op import factors, rotate

HEADS, DIM, BLOCK = 4, 64, 256
SDPA = "SDPA flash (CPU), full causal"

ATTENTION_MEMORY = """
from kernels.attention.masks import blockwise_causal, sliding_window
from kernels.attention.op import attention
def job(kind, T, window):
    mask = {"blockwise": blockwise_causal, "window": sliding_window}[kind](window)
    q, k, v = (torch.randn(1, T, 4, 64).transpose(1, 2).requires_grad_() for _ in range(3))
    return lambda: attention(q, k, v, mask).sum().backward()
"""
LOSS_MEMORY = """
import torch.nn.functional as F
from kernels.cross_entropy.op import linear_cross_entropy
def job(form, N, C, V):
    hidden, weight = torch.randn(N, C, requires_grad=True), torch.randn(V, C, requires_grad=True)
    targets = torch.randint(0, V, (N,))
    def run():
        if form == "plain":
            loss = F.cross_entropy(hidden @ weight.T, targets)
        else:
            loss, _ = linear_cross_entropy(hidden, weight, targets)
        loss.backward()
    return run
"""


def rows() -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _attention()
        yield from _memory()
        yield from _momentum()
        yield from _myopic()
        yield from _loss()
        yield from _rotation()
    finally:
        torch.set_num_threads(threads)


def draw(T: int, heads: int = HEADS) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.randn(1, T, heads, DIM).transpose(1, 2).detach().requires_grad_() for _ in range(3)
    )


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention by the baseline that SDPA names."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def check_attention(mask: Mask, T: int) -> None:
    """The last positions at T, every position at 1100 tokens, forward and gradients."""

    def call(q, k, v):
        return attention(q, k, v, mask)

    def exact(q, k, v):
        return reference.attention(q, k, v, mask)[0]

    name = f"attention under {mask}"
    check_tail(name, call, exact, draw(T, 1))
    inputs = draw(1100, 1)
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    upstream = torch.randn_like(inputs[0])
    with poisoned():
        got = torch.autograd.grad(call(*inputs), inputs, upstream)
    for x, y in zip(got, torch.autograd.grad(exact(*wide), wide, upstream.double())):
        check(f"{name}, gradient", x, y)


def _attention() -> Iterator[Row]:
    seconds = {}
    for T, rounds in ((4096, 5), (16384, 3)):
        masks = {"BCA": blockwise_causal(BLOCK), "sliding window": sliding_window(BLOCK)}
        for mask in masks.values():
            check_attention(mask, T)
        inputs = draw(T)
        calls = {"causal": both_of(full, inputs)}
        for name, mask in masks.items():
            calls[name] = both_of(lambda q, k, v, m=mask: attention(q, k, v, m), inputs)
        times = interleaved(calls, Clock("cpu"), rounds)
        shape = f"T {T // 1024}k, h {BLOCK}, {HEADS} heads, D {DIM}"
        goal = 0.35 if T == 4096 else 1 / 9
        yield Row("cpu", "BCA f+b", shape, SDPA, ratio(times, "BCA", "causal"), goal)
        against = ratio(times, "sliding window", "causal")
        yield Row("cpu", "sliding window f+b", shape, SDPA, against, None)
        seconds[T] = {name: median(times, name) for name in calls}
    for name, goal in (("BCA", 4.6), ("sliding window", None), ("causal", None)):
        growth = seconds[16384][name] / seconds[4096][name]
        yield Row("cpu", f"{name} f+b, time(16k) / time(4k)", "same", "itself", growth, goal)


def _memory() -> Iterator[Row]:
    for kind, name in (("blockwise", "BCA"), ("window", "sliding window")):
        grown = {
            T: peak_growth(ATTENTION_MEMORY, (kind, 1024, BLOCK), (kind, T, BLOCK))
            for T in (8192, 32768)
        }
        shape = f"h {BLOCK}; {grown[8192]:.0f} and {grown[32768]:.0f} MiB"
        growth = grown[32768] / grown[8192]
        yield Row("cpu", f"{name} f+b, memory(32k) / memory(8k)", shape, "itself", growth, 4.4)


def _momentum() -> Iterator[Row]:
    for T in (4096, 16384):
        v = draw(T)[0].detach()
        with poisoned():
            got = momentum(v, 0.9)[0][:, :, -TAIL:]
        eta = float(torch.tensor(0.9))  # as float32 holds it; 0.9^1024 is far below any rounding
        part = v[:, :, -TAIL - 1024 :].double()
        check("momentum", got, momentum(part, eta, impl="reference")[0][:, :, -TAIL:])
        part = v[:, :, -TAIL:].clone().requires_grad_()
        wide, upstream = part.detach().double().requires_grad_(), torch.randn_like(part)
        with poisoned():
            (got,) = torch.autograd.grad(momentum(part, 0.9)[0], part, upstream)
        sums = momentum(wide, eta, impl="reference")[0]
        check("momentum, gradient", got, torch.autograd.grad(sums, wide, upstream.double())[0])
        room = torch.empty_like(v)
        calls = {"copy": lambda room=room, v=v: room.copy_(v), "scan": lambda v=v: momentum(v, 0.9)}
        learner = v.clone().requires_grad_()
        calls["both"] = both_of(lambda v: momentum(v, 0.9)[0], (learner,))
        times = interleaved(calls, Clock("cpu"), 40)
        shape = f"T {T // 1024}k, {HEADS} heads, D {DIM}"
        goal = 10.0 if T == 4096 else None
        yield Row("cpu", "momentum scan", shape, "a copy of v", ratio(times, "scan", "copy"), goal)
        against = ratio(times, "both", "scan")
        yield Row("cpu", "momentum f+b", shape, "its forward", against, None)


def _myopic() -> Iterator[Row]:
    for T, rounds in ((2048, 9), (4096, 5)):
        inputs = draw(T)
        exact = partial(myopic_attention, impl="reference")
        check_tail("myopic attention", myopic_attention, exact, draw(T, 1))
        calls = {
            "standard": backward_of(full(*inputs), inputs),
            "myopic": backward_of(myopic_attention(*inputs), inputs),
        }
        times = interleaved(calls, Clock("cpu"), rounds)
        shape = f"T {T // 1024}k, {HEADS} heads, D {DIM}"
        goal = 0.80 if T == 2048 else None
        against = ratio(times, "myopic", "standard")
        yield Row("cpu", "myopic backward", shape, f"{SDPA}, standard", against, goal)


def _loss() -> Iterator[Row]:
    N, C = 2048, 256
    for V, goal in ((8192, 0.75), (256, 1.0)):
        hidden = torch.randn(N, C, requires_grad=True)
        weight = (torch.randn(V, C) * 0.05).requires_grad_()
        targets = torch.randint(0, V, (N,))
        inputs = (hidden, weight)

        def plain(hidden, weight, targets=targets):
            return F.cross_entropy(F.linear(hidden, weight), targets)

        def ours(hidden, weight, targets=targets):
            return linear_cross_entropy(hidden, weight, targets)[0]

        wide = tuple(x.detach().double().requires_grad_() for x in inputs)
        with poisoned():
            loss = ours(*inputs)
            got = torch.autograd.grad(loss, inputs)
        check("loss", loss, plain(*wide))
        for x, y in zip(got, torch.autograd.grad(plain(*wide), wide)):
            check("the loss's gradient", x, y)
        calls = {"plain": both_of(plain, inputs), "ours": both_of(ours, inputs)}
        times = interleaved(calls, Clock("cpu"), 7 if V > 1000 else 40)
        shape = f"{N} tokens, width {C}, vocabulary {V}"
        against = ratio(times, "ours", "plain")
        yield Row(
            "cpu", "loss from hidden states f+b, time", shape, "F.cross_entropy", against, goal
        )
    grown = {
        form: peak_growth(LOSS_MEMORY, (form, 1024, C, 2048), (form, N, C, 8192))
        for form in ("plain", "ours")
    }
    shape = (
        f"{N} tokens, width {C}, vocabulary 8192; {grown['ours']:.0f} of {grown['plain']:.0f} MiB"
    )
    against = grown["ours"] / grown["plain"]
    yield Row("cpu", "loss from hidden states f+b, memory", shape, "F.cross_entropy", against, 0.35)


def _rotation() -> Iterator[Row]:
    x = draw(4096)[0].detach()
    table = factors(torch.arange(4096), DIM, scale_base=512, centre=2048.0)
    check("rotation", rotate(x, table), rotate(x.double(), table.double()))
    room = torch.empty_like(x)
    calls = {"copy": lambda: room.copy_(x), "rotation": lambda: rotate(x, table)}
    times = interleaved(calls, Clock("cpu"), 40)
    shape = f"T 4k, {HEADS} heads, D {DIM}"
    yield Row(
        "cpu", "xPos of one tensor", shape, "a copy of it", ratio(times, "rotation", "copy"), None
    )
