"""Whether an operation's Triton kernels can run here; all of Triton stays unimported until asked for."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

HEAD_DIM_LIMIT = 256


def why_not_triton(*tensors: Tensor | None) -> str | None:
    """The reason that Triton kernels cannot take these tensors, or None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "the triton package is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for x in tensors:
        if x is None:
            continue
        if x.device.type != "cuda" and not (interpreted and x.device.type == "cpu"):
            return f"the tensors are on {x.device.type}, and Triton needs a CUDA device"
        if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"Triton kernels take float32, float16 and bfloat16, not {x.dtype}"
        if x.shape[-1] > HEAD_DIM_LIMIT:
            return f"Triton kernels take head sizes up to {HEAD_DIM_LIMIT}, not {x.shape[-1]}"
    return None


def use_triton(operation: str, impl: str, *tensors: Tensor | None, unsupported: str = "") -> bool:
    """True for impl="triton", or "auto" on a CUDA device that can; RuntimeError where the first
    cannot. unsupported: what the call asks for that the kernels do not do, empty for nothing."""
    if impl == "triton":
        reason = unsupported or why_not_triton(*tensors)
        if reason:
            raise RuntimeError(f'{operation}: impl="triton" cannot run: {reason}; use impl="auto"')
        return True
    first = next(x for x in tensors if x is not None)
    if impl != "auto" or unsupported or first.device.type != "cuda":
        return False
    return why_not_triton(*tensors) is None
