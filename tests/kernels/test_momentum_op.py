"""Momentum: the recurrence token by token is the definition; chunks, states and resets must match it."""

import oracles
import pytest
import torch

from kernels.momentum.op import momentum

LENGTHS = [1, 2, 15, 16, 17, 63, 65, 256, 300]


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("packed", [None, "row", "batch"])
@pytest.mark.parametrize("T", LENGTHS)
def test_against_the_recurrence(T, packed, per_head, impl):
    """Values, carried state and every gradient, at odd lengths and across documents."""
    B, H, D = 2, 3, 4
    v = torch.randn(B, T, H, D, dtype=torch.float64).transpose(1, 2).requires_grad_()
    eta = torch.rand(H, dtype=torch.float64) if per_head else torch.tensor(0.9).double()
    eta.requires_grad_()
    state = torch.randn(B, H, D, dtype=torch.float64, requires_grad=True)
    ids = None
    if packed is not None:
        ids = (torch.rand((T,) if packed == "row" else (B, T)) < 0.1).cumsum(-1)
    got = momentum(v, eta, state=state, documents=ids, impl=impl)
    want = oracles.momentum(v, eta.expand(H), state, ids)
    upstream = [torch.randn_like(x) for x in want]
    inputs = (v, eta, state)
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    for x, y in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(want, inputs, upstream)
    ):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    v = torch.randn(1, 2, 19, 2, dtype=torch.float64, requires_grad=True)
    eta = torch.tensor([0.0, 0.7], dtype=torch.float64)
    state = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)
    ids = torch.arange(19) // 5
    assert torch.autograd.gradcheck(
        lambda v, s: momentum(v, eta, state=s, documents=ids), (v, state), fast_mode=True
    )
    eta = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, e, s: momentum(v, e, state=s), (v, eta, state), fast_mode=True
    )


def test_decoding_equals_the_whole():
    """Token by token, or a prompt and then tokens: the same sums as in training."""
    v = torch.randn(2, 3, 40, 4, dtype=torch.float64)
    whole, last = momentum(v, 0.8)
    state, rows = None, []
    for begin, end in ((0, 17), *((t, t + 1) for t in range(17, 40))):
        m, state = momentum(v[:, :, begin:end], 0.8, state=state)
        rows.append(m)
    torch.testing.assert_close(torch.cat(rows, dim=2), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 0.9, 0.999])
def test_no_overflow_at_any_length(eta):
    """The cumulative-sum trick is NaN from 842 tokens on at 0.9; a product of decays never is."""
    v = torch.randn(1, 1, 100_000, 1)
    m, _ = momentum(v, eta)
    want, _ = momentum(v.double(), float(torch.tensor(eta)))  # eta itself, as float32 holds it
    error = (m.double() - want).abs().max() / want.abs().max()
    assert float(error) < 2e-6


def test_the_future_and_other_documents_never_matter():
    """Strictly causal: not even a position's own value."""
    v = torch.randn(1, 2, 100, 4)
    m, _ = momentum(v, 0.9)
    changed = v.clone()
    changed[:, :, 50:] = torch.randn_like(changed[:, :, 50:])
    assert torch.equal(momentum(changed, 0.9)[0][:, :, :51], m[:, :, :51])
    ids = (torch.arange(100) >= 30).long()
    before = momentum(v, 0.9, documents=ids)[0]
    changed = v.clone()
    changed[:, :, :30] = torch.randn_like(changed[:, :, :30])
    torch.testing.assert_close(
        momentum(changed, 0.9, documents=ids)[0][:, :, 30:], before[:, :, 30:], rtol=0, atol=0
    )
    assert before[:, :, 30].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    """A bf16 running sum at 0.99 loses its tail."""
    v = torch.randn(1, 2, 3000, 4).to(dtype)
    m, state = momentum(v, 0.99)
    want, _ = momentum(v.double(), 0.99)
    assert m.dtype == dtype and state.dtype == torch.float32
    assert float((m.double() - want).abs().max()) <= torch.finfo(dtype).eps * float(
        want.abs().max()
    )


def test_compiles_whole_and_keeps_its_contract():
    v = torch.randn(2, 2, 40, 4, requires_grad=True)
    eta = torch.tensor([0.5, 0.9], requires_grad=True)
    ids = torch.arange(40) // 7
    compiled = torch.compile(
        lambda v, e: momentum(v, e, documents=ids)[0], fullgraph=True, backend="aot_eager"
    )
    got = torch.autograd.grad(compiled(v, eta).square().sum(), (v, eta))
    want = torch.autograd.grad(momentum(v, eta, documents=ids)[0].square().sum(), (v, eta))
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y)
    op = torch.ops.transformer_zoo.momentum.default
    torch.library.opcheck(op, (v, eta, torch.zeros(2, 2, 4), None))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(eta=torch.ones(3)), "one per head"),
        (dict(eta=0.5, state=torch.zeros(1, 2, 5)), "state must be"),
        (dict(eta=0.5, documents=torch.zeros(1, 7).long()), "documents cover 7 positions, v has 6"),
        (dict(eta=0.5, impl="fast"), "impl must be one of"),
    ],
)
def test_bad_input_is_named(options, says):
    with pytest.raises(ValueError, match=says):
        momentum(torch.zeros(1, 2, 6, 4), **options)
