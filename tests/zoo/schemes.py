"""What is tested: every position scheme with its oracle, small models of them, and a decoder by hand."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.oracle import (
    BLOCK,
    WINDOW,
    alibi_slope,
    biased,
    fire,
    gelu,
    kerple_log,
    kerple_power,
    layer_norm,
    ntk,
    plain,
    rotary,
    sandwich,
    sinusoid,
    t5_bucket,
    theta,
    yarn,
)
from zoo.bench import preset
from zoo.load import build

PRESETS = (
    *("gpt2", "sinusoidal", "nope", "rope", "xpos", "alibi", "t5", "kerple", "fire", "sandwich"),
)
N, H, D, VOCAB = 16, 4, 8, 17
MASKS: dict[str, dict[str, Any]] = {
    "causal": {"_target_": "zoo.masks.causal"},
    "window": {"_target_": "zoo.masks.sliding_window", "window": WINDOW},
    "blockwise": {"_target_": "zoo.masks.blockwise_causal", "block": BLOCK},
}


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
    return biased(q, k, lambda r: [-alibi_slope(h, heads) * r for h in range(1, heads + 1)])


def _t5(module: Any, q: Tensor, k: Tensor) -> Tensor:
    w = module.table_HK.detach().double()
    return biased(q, k, lambda r: [float(row[t5_bucket(r)]) for row in w])


def _kerple(form: Callable[[int, float, float], float]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    def scores(module: Any, q: Tensor, k: Tensor) -> Tensor:
        r1, r2 = (x.detach().double().flatten().tolist() for x in module.positive())
        return biased(q, k, lambda r: [form(r, a, b) for a, b in zip(r1, r2)])

    return scores


def _sandwich(module: Any, q: Tensor, k: Tensor) -> Tensor:
    heads = q.shape[1]
    return biased(q, k, lambda r: [sandwich(r, h, heads, 128) for h in range(1, heads + 1)])


def _fire(module: Any, q: Tensor, k: Tensor) -> Tensor:
    weights = [p.detach().double().tolist() for p in module.mlp.parameters()]
    # The module keeps its learned c above zero this way.
    c, threshold = abs(module.c.item()) + 1e-6, module.threshold.item()
    scores = plain(q, k)
    for i in range(q.shape[2]):
        for j in range(i + 1):
            bias = fire(i - j, i, c, threshold, weights)
            scores[:, :, i, j] += torch.tensor(bias, dtype=torch.float64)
    return scores


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


# ---- positions by themselves


def shape(head_dim: int = D, heads: int = H, context_length: int = N) -> dict[str, int]:
    return {
        "num_heads": heads,
        "head_dim": head_dim,
        "width": heads * head_dim,
        "context_length": context_length,
    }


def new_position(name: str, seed: int = 0, **given: int):
    source = DYNAMIC if name == "dynamic" else SCHEMES[name]
    torch.manual_seed(seed)
    position = build(source.node())(**{**shape(), **given})
    randomise(position, seed)
    return position.double()


def rows(heads: int, T: int, d: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads, T, d, generator=draw, dtype=torch.float64)


def bias_of(position, T: int, S: int | None = None, **options) -> Tensor:
    """The additive bias of a scheme, ALiBi's slopes included."""
    S = T if S is None else S
    slopes = position.slopes()
    if slopes is not None:
        i, j = torch.arange(S - T, S)[:, None], torch.arange(S)
        return -slopes.double()[:, None, None] * (i - j)
    return position.bias(T, S, **options)


def assembled(position, q: Tensor, k: Tensor) -> Tensor:
    """Scores put together from the three places where a scheme may act."""
    a, b, _ = position.rotate(q, k)
    scores = a @ b.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2)
    scores = scores / math.sqrt(q.shape[-1])
    bias = bias_of(position, q.shape[2], k.shape[2])
    return scores if bias is None else scores + bias


# ---- a decoder by hand


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
