"""Low-rank tuning (Hu et al. 2021): y = W x + (alpha / r) B A dropout(x), only A and B learned.

B starts at zero, so tuning starts at the base model. The factors are saved as PEFT saves them.
"""

import json
import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class LoRA:
    """Which linear layers get factors, and of what rank; `attach` gives them.

    targets: patterns of layer names.
    """

    def __init__(
        self,
        *,
        rank: int = 8,
        alpha: float = 32.0,
        dropout: float = 0.1,
        targets: list[str] | tuple[str, ...] = ("*.mixer.qkv",),
    ):
        if rank < 1:
            raise ValueError(f"rank: must be at least 1, got {rank}")
        if alpha <= 0:
            raise ValueError(f"alpha: must be above 0, got {alpha}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: must be in [0, 1), got {dropout}")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets = list(targets)

    def attach(self, model: nn.Module) -> "Attached":
        """Freezes the model and hangs factors beside the layers that match. Raises ValueError."""
        layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and any(fnmatchcase(name, t) for t in self.targets)
        }
        if not layers:
            raise ValueError(f"targets: {self.targets} match no linear layer of the model")
        model.requires_grad_(False)
        return Attached(self, layers)


class Attached(nn.Module):
    """The factors of each layer, in a list, with the layers' names."""

    def __init__(self, settings: LoRA, layers: dict[str, nn.Linear]):
        super().__init__()
        self.settings, self.names = settings, list(layers)
        self.scale = settings.alpha / settings.rank
        self.A, self.B = nn.ParameterList(), nn.ParameterList()
        for layer in layers.values():
            A = torch.empty(settings.rank, layer.in_features)
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
            B = torch.zeros(layer.out_features, settings.rank)
            self.A.append(nn.Parameter(A))
            self.B.append(nn.Parameter(B))
            layer.register_forward_hook(self._hook(len(self.A) - 1))

    def _hook(self, number: int) -> Any:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = nn.functional.dropout(inputs[0], self.settings.dropout, self.training)
            return output + self.scale * (x @ self.A[number].T) @ self.B[number].T

        return add

    @torch.no_grad()
    def deltas(self) -> dict[str, Tensor]:
        """What is added to each weight."""
        return {
            f"{name}.weight": self.scale * (B @ A) for name, A, B in zip(self.names, self.A, self.B)
        }

    def save(self, folder: Path) -> None:
        """Writes the adapter as PEFT does."""
        folder.mkdir(exist_ok=True)
        tensors = {}
        for name, A, B in zip(self.names, self.A, self.B):
            tensors[f"base_model.model.{name}.lora_A.weight"] = A.detach().cpu().contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = B.detach().cpu().contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "target_modules": self.names,
            "bias": "none",
            "fan_in_fan_out": False,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
