"""Rotary positions as transformers writes them down (`rope_parameters`), and as the zoo does."""

import math
from typing import Any

from zoo.decoder import Decoder
from zoo.hf.family import Misfit, require
from zoo.positions import scaling as rules
from zoo.positions.rope import RoPE

# What `rope_type` calls each rule, with its numbers: theirs -> ours.
_RULES: dict[str, tuple[type[rules.Scaling], dict[str, str]]] = {
    "linear": (rules.Linear, {}),
    "dynamic": (rules.DynamicNTK, {}),
    "yarn": (rules.YaRN, {"beta_fast": "fast", "beta_slow": "slow"}),
    "llama3": (rules.Llama3, {"low_freq_factor": "low", "high_freq_factor": "high"}),
}
_SHARED = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}


def rope_node(config: Any) -> dict[str, Any]:
    """The node of RoPE with a config's base, share of the head, and scaling."""
    said: dict[str, Any] = dict(config.rope_parameters)
    node: dict[str, Any] = {
        "_target_": "zoo.positions.rope.RoPE",
        "base": float(said["rope_theta"]),
        "layout": "half",
        "fraction": float(said.get("partial_rotary_factor") or 1.0),
    }
    kind = said["rope_type"]
    if kind == "default":
        return node
    require(kind in _RULES, f"rope_type={kind} is not known here; {', '.join(_RULES)} are")
    rule, numbers = _RULES[kind]
    trained = said.pop("original_max_position_embeddings", None)
    if kind == "dynamic":  # it counts from the length that the config names
        trained = config.max_position_embeddings
    given = {ours: said[theirs] for theirs, ours in numbers.items() if said.get(theirs) is not None}
    factor = float(said["factor"])
    scaling = {
        "_target_": f"{rule.__module__}.{rule.__name__}",
        "factor": factor,
        **{name: float(value) for name, value in given.items()},
    }
    usual = 0.1 * math.log(factor) + 1 if kind == "yarn" else 1.0
    for name, value in said.items():
        known = name in _SHARED or name in numbers or value is None
        fine = known or (name, value) in (("truncate", True), ("attention_factor", usual))
        require(fine, f"rope_parameters.{name}={value} has no counterpart here")
    return {**node, "scaling": scaling, "trained_length": trained or config.max_position_embeddings}


def rope_parameters(model: Decoder) -> dict[str, Any]:
    """`rope_parameters` and `max_position_embeddings` of a model with rotary positions."""
    rope = model.position
    assert isinstance(rope, RoPE)
    said: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": rope.base,
        "partial_rotary_factor": rope.rotated / rope.head_dim,
    }
    length = model.context_length
    if rope.scaling is None:
        return {"rope_parameters": said, "max_position_embeddings": length}
    for kind, (rule, numbers) in _RULES.items():
        if type(rope.scaling) is rule:
            said |= {"rope_type": kind, "factor": rope.scaling.factor}
            said |= {theirs: getattr(rope.scaling, ours) for theirs, ours in numbers.items()}
            break
    else:
        raise Misfit(f"its rotary scaling is {type(rope.scaling).__name__}")
    if kind == "dynamic":
        length = rope.trained_length
    elif kind != "linear":
        said["original_max_position_embeddings"] = rope.trained_length
    return {"rope_parameters": said, "max_position_embeddings": length}
