"""The optimiser and its schedule, and how long a run may last."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

Decay = Literal["cosine", "linear", "constant", "square_root", "inverse_sqrt"]


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: matrices of linear maps decay, everything else does not.

    Norms, biases, positions and tables that are only looked up are not scale-free, so decay would
    pull them towards a meaning of their own. A tied embedding is a linear map's matrix: it decays.
    """
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    positions = {
        id(p) for n, p in model.named_parameters() if "position" in n.split(".")[0]
    }  # a small network inside a scheme (FIRE) belongs to the positions
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if id(p) in matrices and id(p) not in positions]
    kept = [p for p in trained if id(p) not in matrices or id(p) in positions]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class AdamW:
    """AdamW (Loshchilov and Hutter 2017) over a model's two decay groups, fused where it can be."""

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] | list[float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        schedule: "Schedule | None" = None,
    ):
        if lr <= 0:
            raise ValueError(f"lr: must be above 0, got {lr}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: must be two numbers in [0, 1), got {list(betas)}")
        if eps <= 0:
            raise ValueError(f"eps: must be above 0, got {eps}")
        if weight_decay < 0:
            raise ValueError(f"weight_decay: must be at least 0, got {weight_decay}")
        self.lr, self.betas, self.eps, self.weight_decay = (
            lr,
            (betas[0], betas[1]),
            eps,
            weight_decay,
        )
        self.schedule = schedule or Schedule()

    def optimizer(self, model: nn.Module, *, fused: bool = True) -> torch.optim.Optimizer:
        """The optimiser of a model's trainable parameters."""
        return torch.optim.AdamW(
            decay_groups(model, self.weight_decay),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            fused=fused,
        )


class Schedule:
    """The learning rate's factor over a run: linear warm-up, then a decay.

    The warm-up is counted in steps, or with a number below 1 as a share of the run; after it the
    factor falls to `final` at the end by cosine, linear or square_root (final + (1 - final) times the
    square root of what is left, PICL's released schedule); inverse_sqrt is sqrt(warm-up / step)
    whatever `final` (Vaswani et al. 2017 §5.3), constant stays.
    """

    def __init__(
        self,
        *,
        warmup: float = 0.02,
        decay: Decay = "cosine",
        final: float = 0.1,
    ):
        if warmup < 0:
            raise ValueError(f"warmup: must be at least 0, got {warmup}")
        if decay not in get_args(Decay):
            raise ValueError(f"decay: must be one of {', '.join(get_args(Decay))}, got {decay!r}")
        if not 0 <= final <= 1:
            raise ValueError(f"final: must be in [0, 1], got {final}")
        self.warmup, self.decay, self.final = warmup, decay, final

    def factor(self, step: int, progress: float) -> float:
        """The factor at `step`, when `progress` in [0, 1] of the run has passed."""
        progress = min(max(progress, 0.0), 1.0)
        warmed = progress / self.warmup if self.warmup < 1 and self.warmup else 1.0
        if self.warmup >= 1:
            warmed = (step + 1) / self.warmup
        if warmed < 1:
            return max(warmed, 1e-3)
        if self.decay == "constant":
            return 1.0
        share = self.warmup if self.warmup < 1 else progress * self.warmup / max(step, 1)
        if self.decay == "inverse_sqrt":
            return min(1.0, math.sqrt(share / progress)) if progress and share else 1.0
        left = (1 - progress) / max(1 - share, 1e-9)
        left = min(max(left, 0.0), 1.0)
        if self.decay == "square_root":
            left = math.sqrt(left)
        if self.decay == "cosine":
            left = 0.5 * (1 - math.cos(math.pi * left))
        return self.final + (1 - self.final) * left


@dataclass(frozen=True)
class Budget:
    """How long a run may last: whichever of its limits comes first.

    Without any, `default_tokens`. Steps and tokens make a run repeatable; minutes of training do
    not, since machines differ.
    """

    tokens_per_step: int
    default_tokens: int
    max_steps: int | None = None
    max_tokens: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens", "max_minutes"):
            value = getattr(self, name)
            least_excluded = name != "max_steps"  # no step at all: a model is tested as it comes
            if value is not None and (value < 0 or (least_excluded and value == 0)):
                bound = "above" if least_excluded else "at least"
                raise ValueError(f"{name}: must be {bound} 0, got {value}")

    @property
    def steps(self) -> int | None:
        """The number of optimiser steps, None where only time ends the run."""
        limits = [] if self.max_steps is None else [self.max_steps]
        tokens = self.max_tokens
        if not limits and tokens is None and self.max_minutes is None:
            tokens = self.default_tokens
        if tokens is not None:
            limits.append(max(1, -(-tokens // self.tokens_per_step)))
        return min(limits, default=None)

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that has passed, in [0, 1]."""
        shares = [step / self.steps] if self.steps else []
        if self.max_minutes is not None:
            shares.append(seconds / 60 / self.max_minutes)
        return min(max(shares, default=1.0), 1.0)


def schedule_lambda(
    schedule: Schedule, budget: Budget, seconds: Callable[[], float]
) -> Callable[[int], float]:
    """The schedule as LambdaLR wants it, a function of the step alone."""
    return lambda step: schedule.factor(step, budget.progress(step, seconds()))
