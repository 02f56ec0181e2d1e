"""What a run ran on: hardware, versions, and the arithmetic that the hardware is good at."""

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("torch", "lightning", "hydra-core", "triton", "datasets", "tokenizers", "transformers")


def hardware() -> dict[str, str | int]:
    """Processor, cores, and GPU if there is one."""
    found: dict[str, str | int] = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "host": socket.gethostname(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpus"] = torch.cuda.device_count()
    return found


def versions() -> dict[str, str]:
    """Python and the packages whose version can change a figure."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has_fast_bf16(accelerator: str) -> bool:
    """True where bfloat16 matrix products have instructions of their own."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator in ("cpu", "auto") and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's name for a precision; `auto` is bfloat16 autocast where it pays, else float32."""
    names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    if precision == "auto":
        return "bf16-mixed" if has_fast_bf16(accelerator) else "32-true"
    if precision not in names:
        raise ValueError(f"trainer.precision: must be auto, fp32, bf16 or fp16, got {precision!r}")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("trainer.precision: fp16 needs a GPU (its loss scaling does); use bf16")
    return names[precision]
