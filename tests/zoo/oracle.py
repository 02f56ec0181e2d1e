"""What the papers' formulas give, by explicit loops in float64: nothing here calls `zoo` or `kernels`
except `model`, which builds what is to be tested.

    i query, j key, r = i - j distance, h = 1..H head, N training length, S xPos scale base

Shapes: q, k (B, H, T, D) and scores (B, H, T, T), of which only the visible pairs mean anything.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bench import preset
from zoo.load import build

PRESETS = (
    *("gpt2", "sinusoidal", "nope", "rope", "xpos", "alibi", "t5", "kerple", "fire", "sandwich"),
)
N, H, D, VOCAB = 16, 4, 8, 17
MASKS: dict[str, dict[str, Any]] = {
    "causal": {"_target_": "zoo.masks.causal"},
    "window": {"_target_": "zoo.masks.sliding_window", "window": 11},
    "blockwise": {"_target_": "zoo.masks.blockwise_causal", "block": 5},
}


# ---- the formulas -------------------------------------------------------------------------------


def theta(i: float, d: int, base: float = 10000.0) -> float:
    return base ** (-2 * i / d)


def zeta(i: int, d: int) -> float:
    return (i / (d / 2) + 0.4) / 1.4


def alibi_slope(h: int, heads: int) -> float:
    """Press 2021: the row of the lower power of two, then every second slope of the next."""
    lower = 1
    while 2 * lower <= heads:
        lower *= 2
    if h <= lower:
        return 2.0 ** (-8 * h / lower)
    return 2.0 ** (-8 * (2 * (h - lower) - 1) / (2 * lower))


def t5_bucket(r: int, buckets: int = 32, farthest: int = 128) -> int:
    """In whole numbers: the largest m with r/e >= (farthest/e)^(m/e), e exact buckets."""
    exact = buckets // 2
    if r < exact:
        return r
    m = 0
    while m < buckets - exact - 1 and (
        r ** (buckets - exact) * exact ** (m + 1)
        >= exact ** (buckets - exact) * farthest ** (m + 1)
    ):
        m += 1
    return exact + m


def kerple_log(r: int, r1: float, r2: float) -> float:
    return -r1 * math.log(1 + r2 * r)


def kerple_power(r: int, r1: float, r2: float) -> float:
    return -r1 * float(r) ** r2 if r else 0.0


def sandwich(r: int, h: int, heads: int, dim: int) -> float:
    total = sum(math.cos(r * 10000.0 ** (-2 * m / dim)) for m in range(1, dim // 2 + 1))
    return (total - dim / 2) / (8 * h / heads)


def fire(r: int, i: int, c: float, threshold: float, mlp: list[list]) -> list[float]:
    """f(psi(r) / psi(max(i, threshold))), one number a head; mlp: w1, b1, w2, b2."""
    w1, b1, w2, b2 = mlp
    x = math.log(c * r + 1) / math.log(c * max(i, threshold) + 1)
    hidden = [max(0.0, w[0] * x + b) for w, b in zip(w1, b1)]
    return [sum(a * y for a, y in zip(row, hidden)) + b for row, b in zip(w2, b2)]


def sinusoid(p: int, channel: int, width: int) -> float:
    w = 10000.0 ** (-2 * (channel // 2) / width)
    return math.sin(p * w) if channel % 2 == 0 else math.cos(p * w)


def ntk(i: int, d: int, stretch: float, base: float = 10000.0) -> float:
    return theta(i, d, base * stretch ** (d / (d - 2)))


def yarn(i: int, d: int, stretch: float, trained: int, base: float = 10000.0) -> float:
    """The ramp between whole pairs, floor and ceiling, as in the authors' code."""

    def where(turns: float) -> float:
        return d * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(base))

    low, high = max(math.floor(where(32)), 0), min(math.ceil(where(1)), d - 1)
    ramp = min(1.0, max(0.0, (i - low) / max(high - low, 1e-3)))
    return theta(i, d, base) * (1 - ramp) + theta(i, d, base) / stretch * ramp


# ---- scores -------------------------------------------------------------------------------------


def pairs(x: Tensor, layout: str) -> Tensor:
    """The channels of the last axis as complex pairs."""
    half = x.shape[-1] // 2
    if layout == "interleaved":
        return torch.complex(x[..., 0::2].contiguous(), x[..., 1::2].contiguous())
    return torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous())


def plain(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])


def rotary(
    q: Tensor,
    k: Tensor,
    thetas: list[float],
    layout: str = "interleaved",
    scale_base: float | None = None,
) -> Tensor:
    """The relative form: sum_i Re(q_i conj(k_i) e^(j theta_i r)) zeta_i^(r/S) / sqrt(D)."""
    T, d = q.shape[2], q.shape[3]
    factor = torch.zeros(T, T, d // 2, dtype=torch.complex128)
    for i in range(T):
        for j in range(i + 1):
            for p, angle in enumerate(thetas):
                decay = 1.0 if scale_base is None else zeta(p, d) ** ((i - j) / scale_base)
                factor[i, j, p] = complex(
                    decay * math.cos((i - j) * angle), decay * math.sin((i - j) * angle)
                )
    a, b = pairs(q, layout), pairs(k, layout).conj()
    return torch.einsum("bhip,bhjp,ijp->bhij", a, b, factor).real / math.sqrt(d)


def biased(q: Tensor, k: Tensor, bias: Callable[[int, int], list[float]]) -> Tensor:
    """q k / sqrt(D) + bias(i, j), a list over the heads."""
    return plain(q, k) + table(q.shape[2], q.shape[1], bias)


def table(T: int, heads: int, bias: Callable[[int, int], list[float]]) -> Tensor:
    b = torch.zeros(heads, T, T, dtype=torch.float64)
    for i in range(T):
        for j in range(i + 1):
            b[:, i, j] = torch.tensor(bias(i, j), dtype=torch.float64)
    return b


# ---- the schemes under test ---------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """How to build a position scheme, and what its scores must be: (module, q, k) -> scores.

    relative: shifting every position leaves the model's output as it is.
    """

    target: str
    scores: Callable[[Any, Tensor, Tensor], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    relative: bool = True

    def node(self) -> dict[str, Any]:
        return {
            "_target_": f"zoo.positions.{self.target}",
            "_partial_": True,
            **copy.deepcopy(self.options),
        }


def _alibi(module: Any, q: Tensor, k: Tensor) -> Tensor:
    heads = q.shape[1]
    return biased(
        q, k, lambda i, j: [-alibi_slope(h, heads) * (i - j) for h in range(1, heads + 1)]
    )


def _t5(module: Any, q: Tensor, k: Tensor) -> Tensor:
    w = module.table_HK.detach().double()
    return biased(q, k, lambda i, j: [float(row[t5_bucket(i - j)]) for row in w])


def _kerple(form: Callable[[int, float, float], float]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    def scores(module: Any, q: Tensor, k: Tensor) -> Tensor:
        r1, r2 = (x.detach().double().flatten().tolist() for x in module.positive())
        return biased(q, k, lambda i, j: [form(i - j, a, b) for a, b in zip(r1, r2)])

    return scores


def _sandwich(module: Any, q: Tensor, k: Tensor) -> Tensor:
    heads = q.shape[1]
    return biased(q, k, lambda i, j: [sandwich(i - j, h, heads, 128) for h in range(1, heads + 1)])


def _fire(module: Any, q: Tensor, k: Tensor) -> Tensor:
    weights = [p.detach().double().tolist() for p in module.mlp.parameters()]
    # The module keeps its learned c above zero this way.
    c, threshold = abs(module.c.item()) + 1e-6, module.threshold.item()
    return biased(q, k, lambda i, j: fire(i - j, i, c, threshold, weights))


def _rope(
    angle: Callable[[int, int], float] = theta, factor: float = 1.0, **options: Any
) -> Callable[[Any, Tensor, Tensor], Tensor]:
    def scores(module: Any, q: Tensor, k: Tensor) -> Tensor:
        d = q.shape[3]
        return factor * rotary(q, k, [angle(i, d) for i in range(d // 2)], **options)

    return scores


def _dynamic(module: Any, q: Tensor, k: Tensor) -> Tensor:
    stretch = max(1.0, 4 * q.shape[2] / N - 3)
    return _rope(lambda i, d: ntk(i, d, stretch))(module, q, k)


def _none(module: Any, q: Tensor, k: Tensor) -> Tensor:
    return plain(q, k)


def _scaled(rule: str) -> dict[str, Any]:
    return {"scaling": {"_target_": f"zoo.positions.scaling.{rule}", "factor": 4.0}}


SCHEMES: dict[str, Scheme] = {
    "none": Scheme("none.NoPosition", _none),
    "learned": Scheme("learned.Learned", _none, {"max_length": 900}, relative=False),
    "sinusoidal": Scheme("sinusoidal.Sinusoidal", _none, relative=False),
    "rope": Scheme("rope.RoPE", _rope()),
    "rope half": Scheme("rope.RoPE", _rope(layout="half"), {"layout": "half"}),
    "rope base": Scheme("rope.RoPE", _rope(lambda i, d: theta(i, d, 500.0)), {"base": 500.0}),
    "xpos": Scheme("xpos.XPos", _rope(scale_base=N / 2)),
    "xpos half": Scheme(
        "xpos.XPos", _rope(scale_base=24.0, layout="half"), {"layout": "half", "scale_base": 24.0}
    ),
    "alibi": Scheme("alibi.ALiBi", _alibi),
    "t5": Scheme("t5.T5Bias", _t5),
    "kerple log": Scheme("kerple.KerpleLog", _kerple(kerple_log)),
    "kerple power": Scheme("kerple.KerplePower", _kerple(kerple_power)),
    "fire": Scheme("fire.FIRE", _fire, relative=False),
    "sandwich": Scheme("sandwich.Sandwich", _sandwich),
    "linear": Scheme("rope.RoPE", _rope(lambda i, d: theta(i, d) / 4), _scaled("Linear")),
    "ntk": Scheme("rope.RoPE", _rope(lambda i, d: ntk(i, d, 4)), _scaled("NTK")),
    "yarn": Scheme(
        "rope.RoPE",
        _rope(lambda i, d: yarn(i, d, 4, N), (0.1 * math.log(4) + 1) ** 2),
        _scaled("YaRN"),
    ),
}
# Its frequencies follow the length being read, so no two lengths agree: kept out of what compares them.
DYNAMIC = Scheme("rope.RoPE", _dynamic, _scaled("DynamicNTK"))
RELATIVE = [name for name, scheme in SCHEMES.items() if scheme.relative]


def model(
    name: str = "rope",
    mask: str | dict | None = None,
    *,
    seed: int = 0,
    max_length: int = 900,
    **options: Any,
) -> Any:
    """A decoder of two layers with random weights, in eval mode; `name` a scheme or a preset.

    mask: a key of MASKS, or a node; None for causal, or the preset's own. max_length: rows of a
    learned table. options: more keys of the model's node.
    """
    node = preset(name if name in PRESETS and name not in SCHEMES else "rope", VOCAB)
    if name in SCHEMES:
        node["position"] = SCHEMES[name].node()
    if mask is not None:
        node["mask"] = {**(MASKS[mask] if isinstance(mask, str) else mask), "_partial_": True}
    if "max_length" in node["position"]:
        node["position"]["max_length"] = max_length
    node.update(context_length=N, num_layers=2, width=H * D, num_heads=H)
    node.update(options)
    torch.manual_seed(seed)
    built = build(node, key="model")
    randomise(built, seed)
    return built.eval()


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that make attention pick and choose, and every learned bias differ from a constant."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=draw)
        with torch.no_grad():
            if name.endswith(("r1_H", "r2_H")):
                p.copy_(0.2 + torch.rand(p.shape, generator=draw))
            elif name.endswith("table_HK") or "norm" in name:
                p.copy_(noise if "table" in name else 1 + 0.2 * noise)
            elif name.endswith((".c", "c", ".threshold", "threshold")) and p.dim() == 0:
                p.mul_(1.3)
            elif "qkv" in name:
                p.copy_(noise * 1.5 / p.shape[-1] ** 0.5)
            else:
                p.copy_(noise * 0.5 if p.dim() < 2 else noise / p.shape[-1] ** 0.5)


def mask(name: str) -> Any:
    """A mask of MASKS."""
    return build({**MASKS[name], "context_length": N})


def tokens(B: int, T: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


# ---- a decoder by hand --------------------------------------------------------------------------


def visible(kind: str, T: int, size: int | None = None) -> Tensor:
    """The masks, pair by pair: `size` is the window or the block."""
    see = torch.zeros(T, T, dtype=torch.bool)
    for p in range(T):
        for t in range(p + 1):
            if kind == "causal":
                see[p, t] = True
            elif kind == "window":
                see[p, t] = p - t < (size or MASKS["window"]["window"])
            else:
                block = size or MASKS["blockwise"]["block"]
                see[p, t] = t // block >= p // block - 1
    return see


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight
    return y if bias is None else y + bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def decoder(
    module: Any,
    name: str,
    tokens_BT: Tensor,
    see: Tensor,
    *,
    heads: int = H,
    groups: int = H,
) -> Tensor:
    """Logits of a pre-norm decoder (bias-free, GELU) from its state dict alone, in float64.

    see: (T, T) or (B, T, T), who sees whom.
    """
    w = {k: v.detach().double() for k, v in module.state_dict().items()}
    scheme = SCHEMES[name]
    B, T = tokens_BT.shape
    x = w["embedding.weight"][tokens_BT]
    if name == "learned":
        x = x + w["position.table.weight"][:T]
    if name == "sinusoidal":
        C = x.shape[-1]
        x = x + 0.1 * torch.tensor(
            [[sinusoid(p, c, C) for c in range(C)] for p in range(T)], dtype=torch.float64
        )
    owners = [module.position, *module.layer_positions]
    layer = 0
    while f"blocks.{layer}.mixer.qkv.weight" in w:
        at = f"blocks.{layer}."
        y = layer_norm(x, w[at + "mixer_norm.weight"])
        d = x.shape[-1] // heads
        qkv = y @ w[at + "mixer.qkv.weight"].T
        q, k, v = qkv.split([heads * d, groups * d, groups * d], dim=-1)
        q = q.view(B, T, heads, d).transpose(1, 2)
        k, v = (
            z.view(B, T, groups, d).transpose(1, 2).repeat_interleave(heads // groups, 1)
            for z in (k, v)
        )
        scores = scheme.scores(owners[layer % len(owners)], q, k)
        scores = scores.masked_fill(~(see if see.dim() == 2 else see[:, None]), -math.inf)
        out = scores.softmax(-1) @ v
        x = x + out.transpose(1, 2).reshape(B, T, -1) @ w[at + "mixer.project.weight"].T
        y = layer_norm(x, w[at + "mlp_norm.weight"])
        y = gelu(y @ w[at + "mlp.expand.weight"].T) @ w[at + "mlp.project.weight"].T
        x = x + y
        layer += 1
    return layer_norm(x, w["norm.weight"]) @ w["head.weight"].T
