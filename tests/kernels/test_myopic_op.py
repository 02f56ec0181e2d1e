"""Myopic attention: the forward of attention, and gradients that detaching row by row defines."""

import oracles
import pytest
import torch

from kernels.attention.masks import (
    blockwise_causal,
    causal,
    documents,
    prefix,
    sliding_window,
)
from kernels.attention.op import attention
from kernels.bench.measure import check_tail
from kernels.myopic.op import myopic_attention

IDS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 6, 6, 6]])
MASKS = {
    "causal": causal(),
    "window": sliding_window(3),
    "blockwise": blockwise_causal(4),
    "prefix": prefix([2, 6]),
    "packed": causal() & documents(IDS),
    "packed window": sliding_window(3) & documents(IDS),
}


def draw(*shape, layout="BHTD", dtype=torch.float64):
    B, H, T, D = shape
    x = torch.randn(shape, dtype=dtype)
    x = x if layout == "BHTD" else torch.randn(B, T, H, D, dtype=dtype).transpose(1, 2)
    return x.detach().requires_grad_()


def row_by_row(q, k, v, sees, past=None, slopes=None):
    """Query t in a graph where every other position is a constant (or the frozen model's)."""
    H, T = q.shape[1:3]
    S = k.shape[2]
    k0, v0 = (k.detach(), v.detach()) if past is None else past
    rows = []
    for r in range(T):
        t = S - T + r
        keys = torch.cat([k0[:, :, :t], k[:, :, t : t + 1], k0[:, :, t + 1 :]], dim=2)
        values = torch.cat([v0[:, :, :t], v[:, :, t : t + 1], v0[:, :, t + 1 :]], dim=2)
        out, _ = (
            oracles.attention(q[:, :, r : r + 1], keys, values, lambda b, _, s, t=t: sees(b, t, s))
            if slopes is None
            else oracles.attention(
                q[:, :, r : r + 1],
                keys,
                values,
                lambda b, _, s, t=t: sees(b, t, s),
                bias=-slopes.view(1, H, 1, 1) * (t - torch.arange(S)).abs(),
            )
        )
        rows.append(out)
    return torch.cat(rows, dim=2)


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("name", MASKS)
def test_against_row_by_row_detaching(name, H, G, frozen, alibi):
    """The definition itself: training would otherwise pre-cache what it claims not to."""
    T, S, D = 6, 9, 4
    q, k, v = draw(2, H, T, D), draw(2, G, S, D), draw(2, G, S, D)
    past = (draw(2, G, S, D), draw(2, G, S, D)) if frozen else None
    slopes = torch.linspace(0.1, 0.9, H, dtype=torch.float64) if alibi else None
    dense = MASKS[name].dense(9).expand(2, 9, 9)
    want = row_by_row(q, k, v, lambda b, t, s: bool(dense[b, t, s]), past, slopes)
    upstream = torch.randn_like(want)
    want_grads = torch.autograd.grad(want, (q, k, v), upstream)
    for impl in ("auto", "reference"):
        got = myopic_attention(q, k, v, MASKS[name], past=past, slopes=slopes, impl=impl)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        for x, y in zip(torch.autograd.grad(got, (q, k, v), upstream), want_grads):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", ["BHTD", "BTHD"])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (63, 63), (65, 65), (20, 65), (300, 300), (130, 700)])
def test_fast_path_equals_the_reference(T, S, layout):
    """Odd lengths, several tiles, cached queries, grouped heads."""
    ids = (torch.rand(2, S) < 0.06).cumsum(1)
    slopes = torch.tensor([0.5, 0.01, 0.2, 0.03], dtype=torch.float64)
    masks = [
        causal(),
        sliding_window(5),
        sliding_window(100),
        blockwise_causal(64),
        prefix([3, 60]),
    ]
    for mask in (*masks, causal() & documents(ids), sliding_window(9) & documents(ids)):
        for frozen in (False, True):
            q = draw(2, 4, T, 8, layout=layout)
            k, v, k0, v0 = (draw(2, 2, S, 8, layout=layout) for _ in range(4))
            past = (k0, v0) if frozen else None
            runs = []
            upstream = torch.randn(2, 4, T, 8, dtype=torch.float64)
            for impl in ("auto", "reference"):
                out = myopic_attention(q, k, v, mask, past=past, slopes=slopes, impl=impl)
                runs.append((out, *torch.autograd.grad(out, (q, k, v), upstream)))
            for got, want in zip(*runs):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-10, msg=str(mask))


@pytest.mark.parametrize(("D", "mask"), [(80, causal()), (96, blockwise_causal(256))])
def test_long_sequences(D, mask):
    """From 2048 queries on the tiles are wider; 4097 tokens leave one row over."""
    inputs = tuple(draw(1, 1, 4097, D, layout="BTHD", dtype=torch.float32) for _ in range(3))
    check_tail(
        "myopic attention",
        lambda q, k, v: myopic_attention(q, k, v, mask),
        lambda q, k, v: myopic_attention(q, k, v, mask, impl="reference"),
        inputs,
    )


def test_the_forward_is_attention():
    """Myopia changes who learns, never what is computed."""
    q, k, v = draw(2, 4, 50, 8), draw(2, 2, 50, 8), draw(2, 2, 50, 8)
    for mask in (causal(), blockwise_causal(8), sliding_window(5)):
        torch.testing.assert_close(
            myopic_attention(q, k, v, mask), attention(q, k, v, mask), rtol=0, atol=1e-12
        )
        same = myopic_attention(q, k, v, mask, past=(k.detach(), v.detach()))
        torch.testing.assert_close(same, attention(q, k, v, mask), rtol=0, atol=1e-12)


def test_no_gradient_from_later_positions():
    """dL_t / dk_s is exactly 0 for s < t."""
    q, k, v = draw(1, 2, 40, 8), draw(1, 2, 40, 8), draw(1, 2, 40, 8)
    past = (draw(1, 2, 40, 8), draw(1, 2, 40, 8))
    for given in (None, past):
        out = myopic_attention(q, k, v, past=given)
        for grad in torch.autograd.grad(out[:, :, 30].sum(), (k, v)):
            assert grad[:, :, 30].abs().sum() > 0
            grad[:, :, 30] = 0
            assert torch.equal(grad, torch.zeros_like(grad))
    assert all(
        x is None
        for x in torch.autograd.grad(
            myopic_attention(q, k, v, past=past).sum(), past, allow_unused=True
        )
    )


def test_with_what_has_no_kernel_of_its_own():
    """Window-local rotary queries and dense biases compose with myopia too."""
    q, previous, k, v = (draw(1, 2, 20, 4) for _ in range(4))
    bias = torch.randn(1, 2, 20, 20, dtype=torch.float64, requires_grad=True)
    mask = blockwise_causal(4)
    cases = [dict(q_previous_BHTD=previous), dict(bias=bias)]
    for case in cases:
        inputs = (q, k, v, *case.values())
        runs = []
        for impl in ("auto", "reference"):
            out = myopic_attention(q, k, v, mask, impl=impl, **case)
            runs.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
        for got, want in zip(*runs):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        torch.testing.assert_close(runs[0][0], attention(q, k, v, mask, **case))
    # Under a bias of one head the oracle: each row in its own graph.
    dense = mask.dense(20)
    rows = []
    for t in range(20):
        keys, values = (torch.cat([x[:, :, :t].detach(), x[:, :, t : t + 1]], 2) for x in (k, v))
        e = q[:, :, t : t + 1] @ keys.mT / 2 + bias[:, :, t : t + 1, : t + 1]
        rows.append(e.masked_fill(~dense[t, : t + 1], -torch.inf).softmax(-1) @ values)
    want = torch.autograd.grad(torch.cat(rows, 2).square().sum(), (q, k, v, bias))
    for x, y in zip(runs[1][1:], want):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


def test_two_runs_agree_to_the_bit():
    q, k, v = (draw(2, 2, 200, 8, dtype=torch.float32) for _ in range(3))
    runs = []
    for _ in range(2):
        out = myopic_attention(q, k, v, sliding_window(50))
        runs.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    assert all(torch.equal(x, y) for x, y in zip(*runs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """The diagonal's weights are differences of large numbers: they are taken in float32."""
    wide = [draw(1, 2, 100, 16) for _ in range(3)]
    low = [x.detach().to(dtype).requires_grad_() for x in wide]
    wide = [x.detach().double().requires_grad_() for x in low]
    upstream = torch.randn(1, 2, 100, 16, dtype=torch.float64)
    for frozen in (False, True):
        grads = []
        for x in (low, wide):
            past = (x[2].detach(), x[1].detach()) if frozen else None
            out = myopic_attention(*x, past=past)
            grads.append(torch.autograd.grad(out, x, upstream.to(out.dtype)))
        for got, want in zip(*grads):
            assert got.dtype == dtype
            error = (got.double() - want).norm() / want.norm()
            assert float(error) < 2 * torch.finfo(dtype).eps


def test_compiles_whole_and_keeps_its_contract():
    q, k, v = (draw(1, 2, 40, 8, dtype=torch.float32) for _ in range(3))
    compiled = torch.compile(
        lambda q, k, v: myopic_attention(q, k, v, sliding_window(9)),
        fullgraph=True,
        backend="aot_eager",
    )
    got = torch.autograd.grad(compiled(q, k, v).square().sum(), (q, k, v))
    want = torch.autograd.grad(
        myopic_attention(q, k, v, sliding_window(9)).square().sum(), (q, k, v)
    )
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y)
    op = torch.ops.transformer_zoo.myopic_cpu.default
    past = (k.detach(), v.detach())
    for given in ((None, None), past):
        torch.library.opcheck(op, (q, k, v, *given, None, 0.3, *causal().fields()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(impl="fast"), "impl must be one of"),
        (dict(past=(torch.zeros(1, 2, 5, 4),) * 2), "past must be shaped like k"),
        (dict(q=torch.zeros(1, 2, 7, 4)), "7 queries but 6 keys"),
    ],
)
def test_bad_input_is_named(options, says):
    x = torch.zeros(1, 2, 6, 4)
    with pytest.raises(ValueError, match=says):
        myopic_attention(options.pop("q", x), x, x, **options)
