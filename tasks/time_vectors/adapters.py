"""LoRA adapters as PEFT saves them, kept as two factors (Hu et al. 2021).

    delta W = scale * B A          A (r, in), B (out, r);  scale = alpha / r, or alpha / sqrt(r) (rsLoRA)

    sum_i w_i delta W_i = [w_1 s_1 B_1, w_2 s_2 B_2, …] [A_1; A_2; …]       exact, rank r_1 + r_2 + …
    <B_1 A_1, B_2 A_2> = trace((B_2' B_1)(A_1 A_2'))                        no (out, in) matrix is made

Averaging A and B apart, as `linear` of PEFT does, is something else: that is not the sum.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.time_vectors.floats import wide, widen
from tasks.time_vectors.weights import Entry, Weights, open_weights

FILES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Factors:
    """The place of the factors of one matrix; `transposed` where the model holds it as (in, out)."""

    A: Entry
    B: Entry
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that they change."""
        shape = (self.B.shape[0], self.A.shape[1])
        return shape[::-1] if self.transposed else shape


class Adapter:
    """An adapter's folder: `factors` by the name of the weight that they change."""

    def __init__(self, folder: str | Path):
        self.label, self.path = str(folder), Path(folder)
        try:
            self.config: dict[str, Any] = json.loads((self.path / CONFIG).read_text())
        except ValueError as error:
            raise UserError(f"{self.path / CONFIG}: is not JSON ({error})") from error
        file = next((self.path / f for f in FILES if (self.path / f).is_file()), None)
        if file is None:
            raise UserError(f"{folder}: is no adapter's folder; it has none of {', '.join(FILES)}")
        if self.config.get("use_dora"):
            raise UserError(f"{folder}: is a DoRA adapter, which is no sum; merge it first")
        self.weights: Weights = open_weights(file)
        self.factors = self._pair()

    def _pair(self) -> dict[str, Factors]:
        found: dict[str, dict[str, Entry]] = {}
        for name, entry in self.weights.entries.items():
            module, _, factor = name.removesuffix(".weight").rpartition(".lora_")
            if factor not in ("A", "B") or len(entry.shape) != 2:
                raise UserError(
                    f"{self.label}: {name} is no factor of a matrix; only plain LoRA adapters of "
                    "linear layers can be combined"
                )
            found.setdefault(module.removeprefix(_PREFIX), {})[factor] = entry
        return {f"{m}.weight": self._factors(m, pair) for m, pair in found.items()}

    def _factors(self, module: str, pair: dict[str, Entry]) -> Factors:
        if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise UserError(f"{self.label}: the factors of {module} do not fit each other")
        rank = pair["A"].shape[0]
        alpha = _of_module(self.config, "alpha_pattern", module, self.config["lora_alpha"])
        scale = alpha / (rank**0.5 if self.config.get("use_rslora") else rank)
        return Factors(pair["A"], pair["B"], scale, bool(self.config.get("fan_in_fan_out")))

    def matrices(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """left (rows, r) and right (r, columns) of a weight's change, the scale in the left one."""
        factors = self.factors[name]
        A, B = self._read(factors.A), self._read(factors.B)
        left, right = (A.T, B.T) if factors.transposed else (B, A)
        return left * left.dtype.type(factors.scale), np.ascontiguousarray(right)

    def _read(self, entry: Entry) -> np.ndarray:
        raw = self.weights.read(entry, 0, np.empty(entry.nbytes, np.uint8))
        out = np.empty(entry.size, wide([entry.dtype]))
        return widen(raw, entry.dtype, out).reshape(entry.shape)

    def close(self) -> None:
        """Closes the files that were read."""
        self.weights.close()


def is_adapter(path: str | Path) -> bool:
    """Whether a path is the folder of an adapter."""
    return (Path(path) / CONFIG).is_file()


def _of_module(config: dict[str, Any], key: str, module: str, default: float) -> float:
    """PEFT's per-module settings: the key that the module's name ends with."""
    for pattern, value in (config.get(key) or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            return value
    return default


def concatenate(terms: list[tuple[dict[str, float], Adapter]]) -> dict[str, np.ndarray]:
    """The factors, under PEFT's names, of a sum of adapters, each with its weight by matrix."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for weights, adapter in terms:
        for name, factors in adapter.factors.items():
            left, right = adapter.matrices(name)
            B, A = (right.T, left.T) if factors.transposed else (left, right)
            if weights[name]:
                parts.setdefault(name, []).append((B * B.dtype.type(weights[name]), A))
    tensors = {}
    for name, pairs in parts.items():
        module = _PREFIX + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = np.concatenate([A for _, A in pairs], axis=0)
        tensors[f"{module}.lora_B.weight"] = np.concatenate([B for B, _ in pairs], axis=1)
    return tensors


def summed_config(adapters: list[Adapter], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The configuration of `concatenate`'s result: scale 1, every matrix with its own rank."""
    modules = {
        name.removeprefix(_PREFIX).removesuffix(".lora_A.weight"): len(A)
        for name, A in tensors.items()
        if name.endswith(".lora_A.weight")
    }
    rank = max(modules.values(), default=1)
    own = {module: r for module, r in modules.items() if r != rank}
    return adapters[0].config | {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": own,
        "alpha_pattern": own,
        "use_rslora": False,
        "target_modules": sorted(modules),
    }


def inner(a: Adapter, b: Adapter, name: str) -> float:
    """<delta W_a, delta W_b> of one matrix, in float64."""
    (B1, A1), (B2, A2) = (x.matrices(name) for x in (a, b))
    left = B2.T.astype(np.float64) @ B1.astype(np.float64)
    right = A1.astype(np.float64) @ A2.T.astype(np.float64)
    return float(np.sum(left * right.T))
