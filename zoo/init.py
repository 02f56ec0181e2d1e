"""How weights start: GPT-2's scheme, carried over to any width."""

import math

from torch import nn


def initialise(model: nn.Module, *, width: int, num_layers: int, std: float | None = None) -> None:
    """Normal weights, zero biases; projections onto the residual stream scaled by 1/sqrt(2 layers).

    Radford et al. 2019 §2.3. `std` is 0.02 at width 768 and grows as 1/sqrt(width) below it. A module
    with a `reset_parameters` of its own (positions, learned decay) keeps its own start.
    """
    std = 0.02 * math.sqrt(768 / width) if std is None else std
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(".project")
            nn.init.normal_(module.weight, std=std / math.sqrt(2 * num_layers) if residual else std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and not type(module).__module__.startswith("torch."):
            reset()
