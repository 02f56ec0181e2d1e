"""What hidden states tell linearly (§3.4), on sequences that the probe was not fitted to.

    fit on half of the sequences     w = (H'H + ridge I)^-1 H'z       with a bias, positions pooled
    judge on the other half          R^2 = 1 - |z - Hw|^2 / |z - mean z|^2

A random network is already a good feature expansion of a scalar: an untrained one reaches R^2 of 0.3 to
0.9 for sin(b x_n), so no number means anything without that control. What tells is the window sum in
the last layer, which needs other positions' sines.

Shapes: states (N, T, C), targets (N, T, K).
"""

from typing import Any

import torch
from torch import Tensor

from zoo.decoder import Decoder

RIDGE = 1e-4


@torch.no_grad()
def hidden_states(model: Decoder, tokens: Tensor, **options: Any) -> list[Tensor]:
    """What the model reads and what each block leaves on the stream, (N, T, C) float64 each."""
    states: list[Tensor] = []

    def keep_input(block, inputs) -> None:
        states.append(inputs[0].double())

    def keep_output(block, inputs, output) -> None:
        states.append(output.double())

    hooks = [model.blocks[0].register_forward_pre_hook(keep_input)]
    hooks += [block.register_forward_hook(keep_output) for block in model.blocks]
    was_training = model.training
    try:
        model.eval().hidden(tokens, **options)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return states


def probe_r2(states_NTC: Tensor, targets_NTK: Tensor) -> list[float]:
    """Held-out R^2 of each target: fitted on the first half of the sequences, judged on the second."""
    half = len(states_NTC) // 2
    ones = torch.ones_like(states_NTC[..., :1])
    features = torch.cat((states_NTC, ones), -1)
    H, Z = features[:half].flatten(0, 1), targets_NTK[:half].flatten(0, 1)
    gram = H.T @ H + RIDGE * torch.eye(H.shape[1], dtype=H.dtype, device=H.device)
    weights = torch.linalg.solve(gram, H.T @ Z)
    H, Z = features[half:].flatten(0, 1), targets_NTK[half:].flatten(0, 1)
    error = (Z - H @ weights).square().sum(0)
    return (1 - error / (Z - Z.mean(0)).square().sum(0)).tolist()


def correlations(states_NTC: Tensor, targets_NTK: Tensor) -> Tensor:
    """(C, K): Pearson correlation of each neuron with each target over sequences and positions."""
    H, Z = (x.flatten(0, 1) for x in (states_NTC, targets_NTK))
    H, Z = H - H.mean(0), Z - Z.mean(0)
    norm = H.norm(dim=0)[:, None] * Z.norm(dim=0)
    return (H.T @ Z) / norm.clamp(min=1e-300)
