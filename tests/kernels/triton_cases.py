"""Every Triton kernel against the float64 reference of its operation, forward and every gradient.

Each case gives the error of each output: the largest absolute difference over the largest absolute
value. test_gpu.py runs them on a device, test_interpreter.py in Triton's interpreter on CPU tensors.
The latter needs a program of its own, `TRITON_INTERPRET=1 python triton_cases.py`, which prints the
errors as JSON: the variable must be set before kernels are imported, and then the compiler is gone.
"""

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.attention.masks import (
    blockwise_causal,
    causal,
    documents,
    full,
    prefix,
    sliding_window,
)
from kernels.attention.op import attention
from kernels.momentum.op import momentum
from kernels.myopic.op import myopic_attention
from kernels.xpos.op import xpos, xpos_attention

DEVICE = "cpu"
S = 70
IDS = torch.tensor([3, 20, 1, 30, 16]).repeat_interleave(torch.tensor([3, 20, 1, 30, 16]))
IDS = torch.stack([IDS, IDS.flip(0)])
MASKS = {
    "full": full(),
    "causal": causal(),
    "window": sliding_window(10),
    "wide window": sliding_window(50),
    "blockwise": blockwise_causal(32),
    "odd blocks": blockwise_causal(20),
    "prefix": prefix([20, 50]),
    "packed": causal() & documents(IDS),
    "packed window": sliding_window(9) & documents(IDS),
    "packed blocks": blockwise_causal(8) & documents(IDS),
    "packed, aligned blocks": blockwise_causal(32) & documents(IDS),
    "windowed blocks": blockwise_causal(32) & sliding_window(40),
    "two blocks": blockwise_causal(8) & blockwise_causal(12),
}
SLOPES = torch.tensor([0.5, 0.05])
Inputs = list[Tensor]


def errors(run: Callable[..., tuple], inputs: Inputs, dtype: torch.dtype) -> list[float]:
    """run(impl, *inputs) by "triton" in dtype against "reference" in float64."""
    torch.manual_seed(1)
    found = []
    low = [x.to(dtype).requires_grad_() for x in inputs]
    high = [x.detach().double().requires_grad_() for x in low]
    upstream = None
    for impl, tensors in (("triton", low), ("reference", high)):
        outs = run(impl, *tensors)
        upstream = upstream or [torch.randn(x.shape).to(x) for x in outs]
        taken = [g.to(x.dtype) for g, x in zip(upstream, outs)]
        grads = torch.autograd.grad(outs, tensors, taken, allow_unused=True)
        found.append([x for x in (*outs, *grads) if x is not None])
    return [_error(x, y) for x, y in zip(*found, strict=True)]


def _error(got: Tensor, want: Tensor) -> float:
    worst = (got.double() - want.double()).abs().max()
    return float((worst / want.abs().max().clamp(min=1e-3)).detach())


def heads(n: int, length: int, D: int = 16, B: int = 1) -> Tensor:
    return torch.randn(B, length, n, D).to(DEVICE).transpose(1, 2)


def attend(
    mask,
    dtype=torch.float32,
    *,
    T=S,
    keys=None,
    H=2,
    G=1,
    D=16,
    slopes=False,
    previous=False,
    strided=False,
):
    """keys: S where it is not 70. strided: every other element of a larger buffer."""
    mask = MASKS[mask]
    B = mask.batch or 1
    keys = S if keys is None else keys
    steep = SLOPES.to(DEVICE) if slopes else None

    def run(impl, q, k, v, q_previous=None):
        return attention(
            q, k, v, mask, slopes=steep, q_previous_BHTD=q_previous, return_lse=True, impl=impl
        )

    inputs = [heads(H, T, D, B), heads(G, keys, D, B), heads(G, keys, D, B)]
    inputs += [heads(H, T, D, B)] * previous
    if strided:
        inputs = [x.repeat_interleave(2, -1)[..., ::2] for x in inputs]
    return errors(run, inputs, dtype)


def attend_by_blocks(mask, **options):
    """The one-kernel backward, which small problems do not take by themselves."""
    from kernels.attention import triton_backward

    usual, triton_backward.ENOUGH = triton_backward.ENOUGH, 0
    try:
        return attend(mask, **options)
    finally:
        triton_backward.ENOUGH = usual


def shortsighted(mask, dtype=torch.float32, *, T=S, H=2, G=1, frozen=False, slopes=False):
    mask = MASKS[mask]
    B = mask.batch or 1
    past = [heads(G, S, B=B).to(dtype) for _ in range(2)]
    steep = SLOPES.to(DEVICE) if slopes else None

    def run(impl, q, k, v):
        states = tuple(x.to(q.dtype) for x in past) if frozen else None
        return (myopic_attention(q, k, v, mask, past=states, slopes=steep, impl=impl),)

    return errors(run, [heads(H, T, B=B), heads(G, S, B=B), heads(G, S, B=B)], dtype)


def sums(T, eta, dtype=torch.float32, *, packed=False):
    ids = IDS.to(DEVICE) if packed else None
    B = 2 if packed else 1
    state = torch.randn(B, 2, 16).to(DEVICE)

    def run(impl, v, eta=eta):
        return momentum(v, eta, state=state.to(v.dtype).float(), documents=ids, impl=impl)

    learned = isinstance(eta, Tensor)
    if not learned:  # as float32 holds it
        eta = float(torch.tensor(eta))
        return errors(lambda impl, v: run(impl, v, eta), [heads(2, T, B=B)], dtype)
    return errors(run, [heads(2, T, B=B), eta.to(DEVICE)], dtype)


def turned(layout, D, dtype=torch.float32):
    def run(impl, q, k):
        return xpos(q, k, layout=layout, scale_base=64, impl=impl)

    return errors(run, [heads(3, 40, D), heads(1, S, D)], dtype)


def turned_inside(layout, mask, dtype=torch.float32, *, D=16, T=S):
    """Queries rotated in the attention kernel; forward only."""
    tensors = [heads(2, T, D), heads(1, S, D), heads(1, S, D)]
    tensors = [x.to(dtype) for x in tensors]
    found = [
        xpos_attention(*x, MASKS[mask], layout=layout, scale_base=16, impl=impl)
        for impl, x in (("triton", tensors), ("reference", [x.double() for x in tensors]))
    ]
    return [_error(*found)]


def unseen() -> list[float]:
    """0 where later tokens, changed, leave the output up to them as it was to the bit."""
    inputs = [heads(2, S, B=2), heads(1, S, B=2), heads(1, S, B=2)]
    off = []
    for mask in ("causal", "window", "blockwise", "packed"):
        before = attention(*inputs, MASKS[mask], impl="triton")
        for cut in (1, 33):
            later = [x.clone() for x in inputs]
            for x in later:
                x[:, :, cut:] = 100 * torch.randn_like(x[:, :, cut:])
            after = attention(*later, MASKS[mask], impl="triton")
            off.append(0.0 if torch.equal(after[:, :, :cut], before[:, :, :cut]) else 1.0)
    return off


def same_bits(run: Callable[[], list[Tensor]]) -> list[float]:
    """0 where two runs agree to the bit."""
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(run())
    return [0.0 if torch.equal(x, y) else 1.0 for x, y in zip(*results)]


def repeated() -> list[float]:
    def run():
        q, k, v = (heads(2, S).requires_grad_() for _ in range(3))
        out = attention(q, k, v, MASKS["window"], impl="triton")
        return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]

    return same_bits(run)


def compiled() -> list[float]:
    """0 where the torch.compile'd call, without a graph break, gives what the plain one gives."""
    q, k, v = (heads(2, S).requires_grad_() for _ in range(3))
    calls = [
        lambda q, k, v: attention(q, k, v, MASKS["window"], impl="triton"),
        lambda q, k, v: myopic_attention(q, k, v, MASKS["causal"], impl="triton"),
        lambda q, k, v: momentum(v, 0.9, impl="triton")[0] + 0 * (q + k),
        lambda q, k, v: sum(xpos(q, k, impl="triton")) + 0 * v,
    ]
    off = []
    for call in calls:
        torch._dynamo.reset()
        whole = torch.compile(call, fullgraph=True, backend="aot_eager")
        results = []
        for f in (call, whole):
            out = f(q, k, v)
            results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
        off += [_error(x, y) for x, y in zip(*results)]
    return off


def contracts() -> list[float]:
    """Fake kernels give the shapes and strides that the real ones do, grouped heads included."""
    ops = torch.ops.transformer_zoo
    q, k, v = heads(2, 40).requires_grad_(), heads(1, 40), heads(1, 40)
    state, eta = torch.zeros(1, 2, 16, device=DEVICE), torch.tensor([0.5]).to(DEVICE)
    tables = torch.randn(40, 8, 2).to(DEVICE)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for op, arguments in (
        (ops.attention_triton, (q, k, v, None, None, 0.2, *causal().fields())),
        (ops.attention_triton, (q, q, q, q, None, 0.2, *blockwise_causal(16).fields())),
        (ops.myopic_triton, (q, k, v, k, v, None, 0.2, *causal().fields())),
        (ops.momentum_triton, (q, eta, state, None, None)),
        (ops.rotate_triton, (q, k, tables, tables, "half", False)),
        (ops.xpos_attention_triton, (q, k, v, [tables], tables, "half", 0.2, *causal().fields())),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=checks)
    return [0.0]


FP16 = torch.float16
CASES: dict[str, Callable[[], list[float]]] = {
    **{f"attention, {m}": lambda m=m: attend(m) for m in MASKS},
    **{
        f"attention, {m}, 37 queries, slopes": lambda m=m: attend(m, T=37, slopes=True)
        for m in MASKS
    },
    "attention, causal, float16": lambda: attend("causal", FP16),
    "attention, packed, float16": lambda: attend("packed", FP16),
    "attention, head size 20": lambda: attend("window", D=20),
    "attention, head size 80, grouped": lambda: attend("causal", T=40, H=4, G=2, D=80),
    "attention, head size 96": lambda: attend("blockwise", T=40, keys=40, D=96),
    "attention, head size 256": lambda: attend("causal", T=33, keys=33, H=1, D=256),
    **{f"attention, length {n}": lambda n=n: attend("window", T=n, keys=n) for n in (1, 63, 65)},
    "attention, strided": lambda: attend("causal", T=40, strided=True),
    "attention, strided, by blocks": lambda: attend_by_blocks("blockwise", T=40, strided=True),
    "attention, one query": lambda: attend("blockwise", T=1, H=4, G=2),
    "attention, previous": lambda: attend("blockwise", G=2, previous=True),
    "attention, previous, odd blocks": lambda: attend("odd blocks", previous=True),
    "attention, previous, cached": lambda: attend("blockwise", T=37, previous=True, slopes=True),
    **{
        f"attention, previous, {m}": lambda m=m: attend(m, previous=True)
        for m in ("packed blocks", "packed, aligned blocks", "windowed blocks")
    },
    "attention, previous, packed, cached": lambda: attend(
        "packed blocks", T=37, previous=True, slopes=True
    ),
    "attention, previous, float16": lambda: attend("blockwise", FP16, previous=True),
    "attention, by blocks": lambda: attend_by_blocks("blockwise"),
    "attention, by odd blocks, slopes": lambda: attend_by_blocks("odd blocks", T=50, slopes=True),
    **{f"myopic, {m}": lambda m=m: shortsighted(m) for m in ("causal", "window", "prefix")},
    **{
        f"myopic, {m}, frozen past": lambda m=m: shortsighted(m, T=50, frozen=True)
        for m in ("causal", "blockwise", "prefix", "packed")
    },
    "myopic, slopes": lambda: shortsighted("packed", slopes=True),
    "myopic, float16": lambda: shortsighted("causal", FP16, H=1),
    **{f"momentum, {T}": lambda T=T: sums(T, 0.3) for T in (1, 15, 70)},
    "momentum, carried": lambda: sums(100, 0.99),
    "momentum, packed": lambda: sums(70, 0.3, packed=True),
    "momentum, packed, carried": lambda: sums(70, 0.99, packed=True),
    "momentum, learned": lambda: sums(70, torch.tensor(0.9)),
    "momentum, learned a head": lambda: sums(70, torch.tensor([0.5, 0.0]), packed=True),
    "momentum, float16": lambda: sums(70, 0.9, FP16),
    **{
        f"xpos, {x}, {D}": lambda x=x, D=D: turned(x, D)
        for x in ("interleaved", "half")
        for D in (16, 20)
    },
    "xpos, float16": lambda: turned("interleaved", 16, FP16),
    **{
        f"xpos inside, {x}, {m}": lambda x=x, m=m: turned_inside(x, m, D=20, T=50)
        for x in ("interleaved", "half")
        for m in ("causal", "blockwise", "odd blocks")
    },
    "the future": unseen,
    "two runs": repeated,
    "compiled": compiled,
    "contracts": contracts,
}
EXACT = ("the future", "two runs", "contracts")  # nothing but 0 will do


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty hands out NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    results = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        try:
            results[name] = case()
        except Exception as problem:  # the test of this case reports it
            results[name] = f"{type(problem).__name__}: {problem}"[-2000:]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
