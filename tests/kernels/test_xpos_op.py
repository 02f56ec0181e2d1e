"""xPos and RoPE: the published numbers, scores that depend on distance alone, and no overflow."""

import math

import oracles
import pytest
import torch

from kernels.attention.masks import blockwise_causal
from kernels.attention.op import attention
from kernels.xpos import reference
from kernels.xpos.op import factors, local_factors, rotate, xpos, xpos_local

HALF = {"interleaved": False, "half": True}


def test_worked_example():
    """Hand-computed: D 4, L 4, centre 2, position 3, scale base 512."""
    q, k = (torch.zeros(1, 1, 4, 4, dtype=torch.float64) for _ in range(2))
    q[..., 3, :] = k[..., 3, :] = torch.tensor([1.0, 0, 0, 1])
    q, k = xpos(q, k)
    want = [[-0.987573, 0.140775, -0.029970, 0.998688], [-0.992418, 0.141466, -0.030021, 1.000413]]
    got = torch.stack([q[0, 0, 3], k[0, 0, 3]])
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=5e-7)


def test_decay_per_pair():
    """zeta belongs to the pair; D 8: 2/7, 0.464286, 0.642857, 0.821429, and theta 1, .1, .01, .001."""
    one = reference.factors(torch.tensor([1]), 8, scale_base=1)[0]
    want = torch.tensor([2 / 7, 6.5 / 14, 9 / 14, 11.5 / 14], dtype=torch.float64)
    torch.testing.assert_close(one.abs(), want)
    angle = torch.tensor([1, 0.1, 0.01, 0.001], dtype=torch.float64)
    torch.testing.assert_close(one.angle(), angle)


@pytest.mark.parametrize("layout", HALF)
@pytest.mark.parametrize("scale_base", [None, 16])
def test_against_the_pairwise_definition(layout, scale_base):
    """Mixing layouts or scaling a pair's halves apart shipped in other libraries."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    places = [0, 3, 7, 100, 1000]
    for sign in (1, -1):
        table = factors(
            torch.tensor(places),
            8,
            scale_base=scale_base,
            centre=2.5,
            inverse=sign < 0,
            dtype=torch.float64,
        )
        want = oracles.rotation(
            x, places, scale_base=scale_base, sign=sign, centre=2.5, half=HALF[layout]
        )
        error = (rotate(x, table, layout) - want).abs().amax((0, 1, 3))
        assert (error <= 1e-12 * want.abs().amax((0, 1, 3))).all()


@pytest.mark.parametrize("layout", HALF)
def test_scores_depend_on_distance_alone(layout):
    """Any offset, any centre, queries at the end of longer keys: one score per distance."""
    q, k = (torch.randn(1, 2, T, 8, dtype=torch.float64) for T in (9, 30))
    relative = reference.relative_scores(q, k, scale_base=16, layout=layout)
    t = torch.arange(21, 30)[:, None]
    for impl in ("auto", "reference"):
        for offset, centre in ((0, None), (0, 0.0), (7, None), (1000, 1010.0)):
            a, b = xpos(q, k, offset=offset, centre=centre, scale_base=16, layout=layout, impl=impl)
            scores = (a @ b.mT).masked_fill(torch.arange(30) > t, 0.0)
            torch.testing.assert_close(scores, relative, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", HALF)
@pytest.mark.parametrize("strides", ["heads apart", "heads together", "every other", "odd offset"])
def test_gradients_and_strides(layout, strides):
    """A fused projection hands over views; a silent copy or a wrong stride would show here."""
    shapes = {
        "heads apart": lambda: torch.randn(2, 3, 5, 6, dtype=torch.float64),
        "heads together": lambda: torch.randn(2, 5, 3, 3, 6, dtype=torch.float64)[
            :, :, 1
        ].mT.mT.transpose(1, 2),
        "every other": lambda: torch.randn(2, 3, 5, 12, dtype=torch.float64)[..., ::2],
        "odd offset": lambda: torch.randn(2, 3, 5, 7, dtype=torch.float64)[..., 1:],
    }
    x = shapes[strides]()
    table = factors(torch.arange(5), 6, scale_base=3, dtype=torch.float64)
    want = oracles.rotation(x, range(5), scale_base=3, half=HALF[layout])
    torch.testing.assert_close(rotate(x, table, layout), want, rtol=1e-12, atol=1e-12)
    x = x.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, table, layout), x)


def test_float32_inside():
    """bf16 angles are random from position 2048 on: sin errs by 2."""
    x = torch.randn(1, 1, 4096, 64)
    table = factors(torch.arange(4096), 64)
    exact = rotate(x.double(), table.double())
    for dtype, eps in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        low = x.to(dtype)
        got, want = rotate(low, table), rotate(low.double(), table.double())
        assert got.dtype == dtype
        assert float((got.double() - want).abs().max()) <= eps * float(want.abs().max())
    long = factors(torch.tensor([999_999]), 64).double()
    angle = 999_999 * 10000.0 ** (-2 * torch.arange(32, dtype=torch.float64) / 64)
    torch.testing.assert_close(long[0, :, 0], angle.cos(), rtol=0, atol=1e-6)
    assert float((exact - rotate(x, table).double()).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_million_tokens(dtype):
    """Window-local positions: finite and exact where absolute ones overflow (fp16 beyond 4.5k)."""
    block, T, S = 512, 700, 1_000_000
    D = 16
    # The last queries of a million: only the keys that they see are materialised.
    first = (S - T) // block * block - block
    q = torch.randn(1, 1, T, D, dtype=torch.float64).to(dtype)
    k, v = (torch.randn(1, 1, S - first, D, dtype=torch.float64).to(dtype) for _ in range(2))
    own, previous, keys = xpos_local(q, k, block, offset=first)
    out = attention(own, keys, v, blockwise_causal(block), q_previous_BHTD=previous)
    scores = reference.relative_scores(q, k) / math.sqrt(D)
    mask = blockwise_causal(block).dense(T, S - first)
    want = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v.double()
    eps = {torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert float((out.double() - want).abs().max()) < 6 * eps
    # The same scores from absolute positions do not survive.
    if dtype == torch.float16:
        far = factors(torch.tensor([S]), D, scale_base=512).to(dtype)
        assert not far.isfinite().all() or float(far.abs().min()) == 0


def test_local_factors_never_grow():
    """3.5^(block / scale_base / 2) is the bound, whatever the position."""
    for start in (0, 10**9):
        own, previous, key = local_factors(start, 600, 256, 32, scale_base=512)
        bound = 3.5 ** (256 / 512 / 2) * (1 + 1e-6)
        sizes = [torch.view_as_complex(x).abs().max() for x in (own, previous, key)]
        assert max(sizes) <= bound
    assert torch.equal(local_factors(5 * 256, 600, 256, 32)[0], local_factors(0, 600, 256, 32)[0])


def test_compiles_whole():
    """Complex numbers do not compile: the compiled form is real, and the same."""
    x = torch.randn(2, 5, 3, 8).transpose(1, 2).requires_grad_()
    table = factors(torch.arange(5), 8, scale_base=16)
    for layout in HALF:
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x, layout=layout: rotate(x, table, layout), fullgraph=True, backend="aot_eager"
        )
        torch.testing.assert_close(compiled(x), rotate(x, table, layout))
        got = torch.autograd.grad(compiled(x).square().sum(), x)
        want = torch.autograd.grad(rotate(x, table, layout).square().sum(), x)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda x: rotate(x, factors(torch.arange(3), 4), "pairs"), "interleaved"),
        (lambda x: xpos(x, x[:, :, :2]), "3 queries but 2 keys"),
        (lambda x: xpos(x, x, impl="fast"), "impl must be one of"),
        (lambda x: factors(torch.arange(3), 5), "even head size, got 5"),
        (lambda x: xpos_local(x, x, 2, offset=3), "offset 3 must be a multiple of the block 2"),
    ],
)
def test_bad_input_is_named(run, says):
    with pytest.raises(ValueError, match=says):
        run(torch.zeros(1, 1, 3, 4))
