"""The loss from hidden states: equal to the plain form in value and gradient, without its logits."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.cross_entropy.op import linear_cross_entropy


def draw(N=70, C=8, V=33, dtype=torch.float64):
    hidden = torch.randn(N, C, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, C, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, V, (N,))
    targets[::7] = -100
    return hidden, weight, bias, targets


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("chunk", [1, 16, 70, 1000])
def test_against_the_definition(chunk, biased, weighted, reduction, impl):
    """Loss, per-token losses and gradients, for chunks that divide the tokens and chunks that do not."""
    hidden, weight, bias, targets = draw()
    inputs = (hidden, weight, bias) if biased else (hidden, weight)
    weights = torch.rand(70, dtype=torch.float64) if weighted else None
    logits = hidden @ weight.T + (bias if biased else 0)
    kept = targets != -100
    losses = logits.logsumexp(1) - logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    losses = torch.where(kept, losses, 0.0)
    w = kept.double() if weights is None else kept * weights
    want = (w * losses).sum() / (w.sum() if reduction == "mean" else 1)
    got, per_token = linear_cross_entropy(
        hidden,
        weight,
        targets,
        bias=bias if biased else None,
        weights_N=weights,
        reduction=reduction,
        chunk=chunk,
        impl=impl,
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(per_token, losses.detach(), rtol=1e-12, atol=1e-12)
    assert not per_token.requires_grad
    for x, y in zip(torch.autograd.grad(3 * got, inputs), torch.autograd.grad(3 * want, inputs)):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    hidden, weight, bias, targets = draw(9, 3, 5)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, targets, bias=b, chunk=4)[0],
        (hidden, weight, bias),
    )


def test_equals_torch_cross_entropy():
    """The yardstick that everybody reports."""
    hidden, weight, _, targets = draw(300, 16, 1000, torch.float32)
    loss, losses = linear_cross_entropy(hidden, weight, targets)
    logits = hidden @ weight.T
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none").detach())


def test_logits_are_never_whole():
    """The point of it: memory in chunks x vocabulary, not tokens x vocabulary."""

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple) else (out,):
                if isinstance(x, torch.Tensor):
                    self.most = max(self.most, x.numel())
            return out

    hidden, weight, _, targets = draw(2048, 8, 8192, torch.float32)
    with Largest() as watch:
        linear_cross_entropy(hidden, weight, targets)[0].backward()
    assert watch.most <= 2048 * 8192 // 8


def test_only_what_is_asked_for():
    """Frozen embeddings or evaluation must not pay for gradients, nor receive any."""
    hidden, weight, _, targets = draw()
    loss, _ = linear_cross_entropy(hidden, weight.detach(), targets, chunk=16)
    loss.backward()
    assert hidden.grad is not None and weight.grad is None
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden, weight, targets, chunk=16)
    assert not loss.requires_grad


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    loss, losses = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]), chunk=1)
    assert losses.tolist() == [0.0, 2e4]
    loss.backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_autocast():
    """Matmuls in bfloat16, the softmax and the weight's gradient in float32."""
    hidden, weight, _, targets = draw(200, 32, 100, torch.float32)
    runs = []
    for impl in ("reference", "chunked"):
        with torch.autocast("cpu", torch.bfloat16):
            loss, losses = linear_cross_entropy(hidden, weight, targets, chunk=64, impl=impl)
        assert losses.dtype == torch.float32
        runs.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    exact, _ = linear_cross_entropy(hidden.double(), weight.double(), targets)
    truth = (exact, *torch.autograd.grad(exact, (hidden, weight)))
    for plain, chunked, true in zip(*runs, truth):
        assert plain.dtype == chunked.dtype == torch.float32
        error, limit = ((x - true).detach().norm() for x in (chunked, plain))
        assert error < 1.5 * limit


def test_compiles_whole_and_keeps_its_contract():
    hidden, weight, bias, targets = draw(dtype=torch.float32)
    compiled = torch.compile(
        lambda h, w: linear_cross_entropy(h, w, targets, chunk=16)[0],
        fullgraph=True,
        backend="aot_eager",
    )
    got = torch.autograd.grad(compiled(hidden, weight), (hidden, weight))
    want = torch.autograd.grad(
        linear_cross_entropy(hidden, weight, targets, impl="reference")[0], (hidden, weight)
    )
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y)
    op = torch.ops.transformer_zoo.linear_cross_entropy.default
    kept = targets.clamp(min=0)
    ones = torch.ones(70)
    torch.library.opcheck(op, (hidden, weight, bias, kept, ones, 16, torch.float32, True, True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(reduction="none"), "reduction must be"),
        (dict(impl="fast"), "impl must be one of"),
        (dict(targets_N=torch.zeros(4).long()), "targets"),
    ],
)
def test_bad_input_is_named(options, says):
    options = dict(targets_N=torch.zeros(5).long()) | options
    with pytest.raises(ValueError, match=says):
        linear_cross_entropy(torch.zeros(5, 3), torch.zeros(7, 3), **options)


def test_a_target_outside_the_vocabulary_is_an_error():
    """Silently learning the wrong token is worse than stopping."""
    for target in (7, -1):
        with pytest.raises((IndexError, RuntimeError)):
            linear_cross_entropy(
                torch.zeros(1, 3), torch.zeros(7, 3), torch.tensor([target]), chunk=1
            )
