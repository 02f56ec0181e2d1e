"""Attention in float64: against row-by-row loops, its gradients, and each fast path."""

import itertools
import math

import oracles
import pytest
import torch

from kernels.attention import cpu, reference
from kernels.attention.masks import (
    blockwise_causal,
    causal,
    documents,
    full,
    prefix,
    sliding_window,
)
from kernels.attention.op import attention
from kernels.bench.measure import check_tail
from kernels.xpos.op import factors, rotate, xpos, xpos_local

IDS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 6, 6, 6]])
MASKS = {
    "causal": causal(),
    "window": sliding_window(3),
    "blockwise": blockwise_causal(4),
    "prefix": prefix([2, 6]),
    "documents": documents(IDS),
    "packed": causal() & documents(IDS),
    "packed window": sliding_window(3) & documents(IDS),
    "blocks": blockwise_causal(2) & blockwise_causal(3),
    "full": full(),
}


def sees(name):
    """The mask's predicate, from its own dense form (test_interval_masks checks that)."""
    dense = MASKS[name].dense(9).expand(2, 9, 9)
    return lambda b, t, s: bool(dense[b, t, s])


def draw(B, heads, length, D, layout="BHTD", dtype=torch.float64):
    if layout == "BHTD":
        x = torch.randn(B, heads, length, D, dtype=dtype)
    elif layout == "BTHD":  # a projection's output seen by heads
        x = torch.randn(B, length, heads, D, dtype=dtype).transpose(1, 2)
    else:  # every third element of a larger buffer
        x = torch.randn(B, heads, length, 2 * D, dtype=dtype)[..., ::2]
    return x.detach().requires_grad_()


POSITIONS = ["none", "rope", "xpos", "alibi", "bias"]


@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize(
    ("name", "position"), [*itertools.product(MASKS, POSITIONS), ("blockwise", "local")]
)
def test_against_loops_and_gradcheck(name, position, H, G):
    """mask x position x grouped heads: values against loops, gradients against differences."""
    D, T, S = 4, 7, 9
    mask = MASKS[name]
    q, k, v = draw(2, H, T, D), draw(2, G, S, D), draw(2, G, S, D)
    slopes = torch.linspace(0.1, 0.9, H, dtype=torch.float64) if position == "alibi" else None
    bias = None
    if position == "bias":
        bias = torch.randn(1, H, T, S, dtype=torch.float64, requires_grad=True)
    turned = torch.arange(S)

    def run(q, k, v, bias, impl="auto"):
        previous = None
        if position == "rope":
            table = factors(turned, D, dtype=torch.float64)
            q, k = rotate(q, table[S - T :]), rotate(k, table)
        elif position == "xpos":
            q, k = xpos(q, k, scale_base=4)
        elif position == "local":
            q, previous, k = xpos_local(q, k, 4, scale_base=4)
        return attention(
            q,
            k,
            v,
            mask,
            slopes=slopes,
            bias=bias,
            q_previous_BHTD=previous,
            impl=impl,
            return_lse=True,
        )

    q_, k_ = q, k
    if position in ("rope", "xpos", "local"):
        base = None if position == "rope" else 4
        q_ = oracles.rotation(q, range(S - T, S), scale_base=base)
        k_ = oracles.rotation(k, range(S), scale_base=base, sign=-1)
    expected = oracles.attention(q_, k_, v, sees(name), slopes=slopes, bias=bias)
    for impl in ("auto", "reference"):
        for got, want in zip(run(q, k, v, bias, impl), expected):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    tensors = (q, k, v) if bias is None else (q, k, v, bias)
    upstream = [torch.randn_like(x) for x in expected]
    got = torch.autograd.grad(run(q, k, v, bias), tensors, upstream)
    want = torch.autograd.grad(expected, tensors, upstream)
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    if (H, G) == (4, 2) and name in ("packed window", "blockwise", "prefix"):
        assert torch.autograd.gradcheck(
            lambda *x: run(*x, None) if bias is None else run(*x), tensors, fast_mode=True
        )


LENGTHS = [(1, 1), (63, 63), (65, 65), (1, 65), (20, 65), (130, 131), (257, 257), (65, 700)]


def masks_of(S):
    ids = (torch.rand(2, S) < 0.06).cumsum(1)
    return {
        "causal": causal(),
        "window 1": sliding_window(1),
        "window 5": sliding_window(5),
        "window 64": sliding_window(64),
        "window 100": sliding_window(100),
        "block 1": blockwise_causal(1),
        "block 16": blockwise_causal(16),
        "block 64": blockwise_causal(64),
        "block 300": blockwise_causal(300),
        "prefix": prefix([3, 60]),
        "packed": causal() & documents(ids),
        "documents": documents(ids),
        "one row of documents": causal() & documents(ids[0]),
        "packed blockwise": blockwise_causal(16) & documents(ids),
        "full": full(),
    }


@pytest.mark.parametrize(
    ("T", "S", "layout"), [*((*x, "BTHD") for x in LENGTHS), (65, 65, "BHTD"), (65, 65, "strided")]
)
def test_fast_paths_equal_the_reference(T, S, layout):
    """Odd lengths, cached queries and every memory layout, forward and every gradient."""
    slopes = torch.tensor([0.5, 0.01, 0.2, 0.03], dtype=torch.float64)
    for name, mask in masks_of(S).items():
        for options in ({}, {"slopes": slopes}, {"previous": True}):
            if "previous" in options and not name.startswith("block"):
                continue
            q, k, v = draw(2, 4, T, 8, layout), draw(2, 2, S, 8, layout), draw(2, 2, S, 8, layout)
            tensors, keywords = [q, k, v], dict(slopes=options.get("slopes"))
            if "previous" in options:
                tensors.append(draw(2, 4, T, 8, layout))
                keywords["q_previous_BHTD"] = tensors[-1]
            results = []
            upstream = None
            for impl in ("auto", "reference"):
                both = attention(q, k, v, mask, return_lse=True, impl=impl, **keywords)
                alone = attention(q, k, v, mask, impl=impl, **keywords)
                if upstream is None:
                    upstream = [torch.randn_like(x) for x in both]
                grads = torch.autograd.grad(both, tensors, upstream)
                plain = torch.autograd.grad(alone, tensors, upstream[:1])
                results.append([*both, alone, *grads, *plain])
            for got, want in zip(*results):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-10, msg=f"{name} {options}")


@pytest.mark.parametrize(
    ("D", "mask"),
    [
        (16, sliding_window(300)),
        (80, blockwise_causal(256)),
        (96, prefix(1000)),
        (256, causal() & documents(torch.arange(4097) // 900)),
    ],
)
def test_long_odd_lengths_and_every_head_size(D, mask):
    """4097 tokens end in a tile of one row; head sizes that are no power of two are common."""
    inputs = tuple(draw(1, 1, 4097, D, "BTHD", torch.float32) for _ in range(3))
    check_tail(
        "attention",
        lambda q, k, v: attention(q, k, v, mask),
        lambda q, k, v: reference.attention(q, k, v, mask)[0],
        inputs,
    )


def test_gradient_through_the_log_sum_exp_alone():
    """Merging attentions by their lse trains through it even where the output is unused."""
    q, k, v = draw(1, 2, 70, 8), draw(1, 2, 70, 8), draw(1, 2, 70, 8)
    grads = []
    for impl in ("auto", "reference"):
        _, lse = attention(q, k, v, blockwise_causal(16), return_lse=True, impl=impl)
        grads.append(torch.autograd.grad(lse.square().sum(), (q, k)))
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["causal", "window 5", "window 100", "block 16", "block 64", "packed"]
)
def test_the_future_never_matters(name):
    """One bit of a later token in an earlier output is a leaked label."""
    mask = masks_of(150)[name]
    q, k, v = (draw(2, 2, 150, 8, dtype=torch.float32).detach() for _ in range(3))
    before = attention(q, k, v, mask)
    for cut in (1, 63, 64, 149):
        later = [x.clone() for x in (q, k, v)]
        for x in later:
            x[:, :, cut:] = 100 * torch.randn_like(x[:, :, cut:])
        assert torch.equal(attention(*later, mask)[:, :, :cut], before[:, :, :cut])


def test_two_runs_agree_to_the_bit():
    """A run that cannot be repeated cannot be compared."""
    for mask in masks_of(200).values():
        q, k, v = (draw(2, 2, 200, 8, "BTHD", torch.float32) for _ in range(3))
        runs = []
        for _ in range(2):
            out = attention(q, k, v, mask)
            runs.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
        assert all(torch.equal(x, y) for x, y in zip(*runs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_its_inputs(dtype):
    """Merged pieces must not lose more than one call of torch's own kernel does."""
    q, k, v = (draw(1, 2, 300, 32, dtype=dtype).detach() for _ in range(3))
    wide = [x.double() for x in (q, k, v)]

    def error(out, mask):
        want = attention(*wide, mask, impl="reference")
        return float((out.double() - want).norm() / want.norm())

    plain = error(attention(q, k, v, causal()), causal())
    for mask in (blockwise_causal(64), sliding_window(64), prefix(100)):
        assert error(attention(q, k, v, mask), mask) < 2 * plain


def test_overflowing_scores_under_the_mask_stay_there():
    """xPos keys of the far future overflow; added masks would turn them into NaN everywhere."""
    q, k, v = (draw(1, 1, 8, 4, dtype=torch.float32).detach() for _ in range(3))
    k[:, :, 5:] = 3e38
    q.mul_(1e3)
    for impl in ("auto", "reference"):
        for mask in (causal(), blockwise_causal(2)):
            out = attention(q, k, v, mask, impl=impl)[:, :, :4]
            clean = attention(q[:, :, :4], k[:, :, :4], v[:, :, :4], mask)
            torch.testing.assert_close(out, clean)


def test_rows_without_keys_are_zero():
    """The specification's answer for an empty row, NaN-free in both directions."""
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 0, 4), draw(1, 2, 0, 4)
    out, lse = attention(q, k, v, full(), return_lse=True, impl="reference")
    assert torch.equal(out, torch.zeros_like(out)) and (lse == -math.inf).all()
    assert torch.autograd.grad(out.sum(), q)[0].eq(0).all()


def test_dropout_drops_weights_and_keeps_their_mean():
    """Without rescaling, training and evaluation would disagree."""
    q, k, v = (draw(4, 4, 200, 8, dtype=torch.float32).detach() for _ in range(3))
    for mask in (causal(), sliding_window(50)):
        for impl in ("auto", "reference"):
            still = attention(q, k, v.abs(), mask, impl=impl)
            dropped = attention(q, k, v.abs(), mask, dropout=0.5, impl=impl)
            assert abs(float(dropped.mean() / still.mean()) - 1) < 0.02
            first = dropped[:, :, 0] / still[:, :, 0]  # one key: kept and doubled, or gone
            assert torch.all((first == 0) | ((first - 2).abs() < 1e-5))
            assert 0.2 < float((first[..., 0] == 0).float().mean()) < 0.8


def test_memory_is_linear_in_the_length():
    """O(T window) is the promise; one (T, T) tensor would break it."""
    sizes = {}

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in torch.utils._pytree.tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    self.most = max(self.most, x.untyped_storage().nbytes())
            return out

    for mask in (blockwise_causal(64), sliding_window(64), sliding_window(20), prefix(1000)):
        for T in (1024, 4096):
            q, k, v = (draw(1, 1, T, 16, dtype=torch.float32) for _ in range(3))
            with Largest() as watch:
                watch.most = 0
                _, lse = cpu.attention(q, k, v, mask)
                lse.sum().backward()
            sizes[T] = watch.most
        assert sizes[4096] <= 4 * sizes[1024] and sizes[4096] < 4096 * 4096


def test_compiles_whole():
    """A graph break in attention splits every block of the model."""
    ids = (torch.rand(2, 40) < 0.1).cumsum(1)
    q, k, v = (draw(2, 2, 40, 8, "BTHD", torch.float32) for _ in range(3))
    for mask in (causal(), blockwise_causal(8), sliding_window(9) & documents(ids)):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda q, k, v, mask=mask: attention(q, k, v, mask),
            fullgraph=True,
            backend="aot_eager",
        )
        want = attention(q, k, v, mask)
        torch.testing.assert_close(compiled(q, k, v), want)
        got = torch.autograd.grad(compiled(q, k, v).square().sum(), (q, k, v))
        for x, y in zip(got, torch.autograd.grad(want.square().sum(), (q, k, v))):
            torch.testing.assert_close(x, y)


def test_operators_keep_their_contracts():
    """A wrong fake kernel or autograd formula shows only under torch.compile, far from here."""
    q, k, v = (draw(2, 2, 20, 8, "BTHD", torch.float32) for _ in range(3))
    op = torch.ops.transformer_zoo.attention_cpu.default
    for mask in (blockwise_causal(4), causal() & documents(torch.arange(20) // 7)):
        torch.library.opcheck(op, (q, k, v, None, None, None, *mask.fields()))


def test_autocast_runs_in_its_dtype():
    """Under autocast queries arrive in float32 after a rotation, values in bfloat16."""
    q, k, v = (draw(1, 2, 70, 8, dtype=torch.float32) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        for mask in (causal(), blockwise_causal(16)):
            assert attention(q, k, v.bfloat16(), mask).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(impl="fast"), "impl must be one of auto, reference, triton"),
        (dict(k=(2, 3, 9, 4), v=(2, 3, 9, 4)), "multiple of the 3 key heads"),
        (dict(v=(2, 2, 8, 4)), "attention needs q"),
        (dict(q=(2, 4, 10, 4)), "10 queries but 9 keys"),
        (dict(mask=documents(torch.zeros(3, 9).long())), "for 3 samples, q has 2"),
        (dict(previous=True, mask=sliding_window(3)), "q_previous needs a mask with one blockwise"),
    ],
)
def test_bad_input_is_named(change, says):
    q = torch.zeros(change.get("q", (2, 4, 9, 4)))
    k, v = torch.zeros(change.get("k", (2, 2, 9, 4))), torch.zeros(change.get("v", (2, 2, 9, 4)))
    previous = q if change.get("previous") else None
    with pytest.raises(ValueError, match=says):
        attention(
            q,
            k,
            v,
            change.get("mask", sliding_window(2)),
            q_previous_BHTD=previous,
            impl=change.get("impl", "auto"),
        )
