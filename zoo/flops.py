"""Counting: parameters by part, FLOPs of a step, and what the machine could do.

Profilers miss CPU attention and ignore masks, so FLOPs are counted from shapes. Two numbers a token:

    model FLOPs   6 N + 12 L H D T           PaLM appendix B (Chowdhery et al. 2022), attention whole
    exact FLOPs   6 N + 12 L H D pairs/T     only the pairs that the mask lets through

N counts the weights that are multiplied with every token (head included, embedding tables not).
Both are for forward and backward; the forward alone is a third.
"""

import time

import torch
from torch import nn

from zoo.decoder import Decoder

# Dense bf16 (before Ampere fp16) matrix peak in FLOP/s by a word of the device's name (datasheets, no sparsity); where
# no word matches, it is measured.
PEAKS = {"H200": 989e12, "GH200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
         "L4": 121e12, "V100": 125e12, "T4": 65e12}  # fmt: skip
PEAK_H100_PCIE = 756e12


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of a decoder's parts; tied weights are counted once, under `embedding`."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        head, *rest = name.split(".")
        part = rest[1] if head == "blocks" and len(rest) > 1 else head
        part = {"mixer_norm": "norm", "mlp_norm": "norm", "layer_positions": "position"}.get(
            part, part
        )
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def matmul_parameters(model: nn.Module) -> int:
    """N: entries of the matrices that every token is multiplied with."""
    return sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and "position" not in name.split(".")[0]
    )


def visible_pairs(model: Decoder, length: int) -> int:
    """Query-key pairs that the model's mask lets through in a sequence of `length`."""
    lo, hi = model.mask.bounds(length)
    return int((hi - lo).clamp(min=0).sum())


def training_flops(model: Decoder, length: int, *, exact: bool = False) -> float:
    """FLOPs of forward and backward over one token of a sequence of `length` tokens."""
    attended = visible_pairs(model, length) / length if exact else length
    attention = 12 * len(model.blocks) * model.width * attended
    return 6 * matmul_parameters(model) + attention


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The device's matrix peak in FLOP/s: a GPU's from its datasheet, otherwise as measured.

    The measurement is the best of a few square products, a lower bound of the true peak.
    """
    if device.type == "cuda":
        words = torch.cuda.get_device_name(device).replace("-", " ").split()
        if "H100" in words and "PCIe" in words:
            return PEAK_H100_PCIE
        for word in words:
            if word in PEAKS:
                return PEAKS[word]
    size = 768
    a = torch.randn(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
