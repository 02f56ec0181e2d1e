"""On a CUDA device: the cases of the interpreter, in the precisions and lengths that it cannot reach."""

import pytest
import torch
import triton_cases
from triton_cases import (
    CASES,
    EXACT,
    attend,
    attend_by_blocks,
    shortsighted,
    sums,
    turned,
    turned_inside,
)

from kernels.attention.masks import blockwise_causal, sliding_window
from kernels.attention.op import attention
from kernels.cross_entropy.op import linear_cross_entropy

pytestmark = pytest.mark.gpu
BOUND = {torch.float32: 16 * 2**-23, torch.float16: 4 * 2**-10, torch.bfloat16: 4 * 2**-7}


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch):
    monkeypatch.setattr(triton_cases, "DEVICE", "cuda")


@pytest.mark.parametrize("case", CASES)
def test_against_float64(case):
    errors = CASES[case]()
    half = torch.float16 if "float16" in case else torch.float32
    assert errors and max(errors) <= (0.0 if case in EXACT else BOUND[half]), errors


@pytest.mark.parametrize("length", [1, 63, 65, 1000, 4097])
@pytest.mark.parametrize("D", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", BOUND)
def test_every_size_and_precision(dtype, D, length, monkeypatch):
    """Tails, padded head sizes and both backward forms, in the precision that is trained in."""
    monkeypatch.setattr(triton_cases, "S", length)
    monkeypatch.setitem(triton_cases.MASKS, "wide", sliding_window(300))
    monkeypatch.setitem(triton_cases.MASKS, "blocks", blockwise_causal(256))
    runs = [
        attend("causal", dtype, T=length, D=D),
        attend("wide", dtype, T=length, D=D),
        attend("blocks", dtype, T=length, D=D, previous=True),
        attend_by_blocks("blocks", dtype=dtype, T=length, D=D),
    ]
    assert max(max(x) for x in runs) <= BOUND[dtype], runs


@pytest.mark.parametrize("dtype", BOUND)
def test_the_other_operations(dtype):
    runs = [
        shortsighted("causal", dtype),
        shortsighted("packed", dtype, frozen=True),
        sums(5000, 0.9, dtype),
        sums(5000, 0.999, dtype),
        turned("half", 80, dtype),
        turned_inside("interleaved", "blockwise", dtype, D=64),
    ]
    assert max(max(x) for x in runs) <= BOUND[dtype], runs


def test_auto_takes_the_kernels():
    """The fast path that is never taken is the slow path."""
    q = torch.randn(1, 2, 300, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    out = attention(q, q, q, blockwise_causal(64))
    assert "attention_triton" in type(out.grad_fn).__name__
    wide = q.detach().double()
    assert (
        attention(wide, wide, wide, sliding_window(9)).dtype == torch.float64
    )  # no kernel: falls back


def test_loss_from_hidden_states():
    """Large logits come in chunks on the device too."""
    hidden = torch.randn(5000, 64, device="cuda", requires_grad=True)
    weight = torch.randn(20_000, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, 20_000, (5000,), device="cuda")
    grads = []
    for impl in ("chunked", "reference"):
        loss, _ = linear_cross_entropy(hidden, weight, targets, impl=impl)
        grads.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    for x, y in zip(*grads):
        torch.testing.assert_close(x, y)
