"""Compiles, without a GPU, exactly what a launcher would launch, and reads the machine code.

`launches` runs a launcher on CPU tensors with every kernel launch recorded instead of run; `compiled`
turns a recorded launch into a cubin for sm_90 and counts instructions. TRITON_INTERPRET must be unset
before kernels are imported.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Code:
    """registers a thread; bytes of stack and of shared memory; counts of machine instructions.

    dots: matmuls that the kernel asks for. wgmma, old_mma: tensor-core instructions of the two kinds
    (HGMMA, HMMA). local: loads and stores of spilled registers.
    """

    name: str
    registers: int
    stack: int
    shared: int
    warps: int
    dots: int
    wgmma: int
    old_mma: int
    local: int


def launches(run: Callable[[], Any]) -> list[Launch]:
    """The kernel launches of run(), which none of them happens."""
    seen: list[Launch] = []

    def record(self, *args, grid, warmup, **kwargs):
        names = [p.name for p in self.params]
        options = {k: kwargs.pop(k) for k in OPTIONS if k in kwargs}
        seen.append(Launch(self, dict(zip(names, args)) | kwargs, options))

    original = JITFunction.run
    JITFunction.run = record
    try:
        run()
    finally:
        JITFunction.run = original
    return seen


def compiled(launch: Launch) -> Code:
    """Specialised as the launcher would: integers of 1 are constants, multiples of 16 are marked."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1) or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage, sass = (_cuobjdump(flag, cubin) for flag in ("-res-usage", "-sass"))
    field = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    opcodes = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9]+)", sass, re.M)
    return Code(
        launch.kernel.__name__,
        field["REG"],
        field["STACK"],
        kernel.metadata.shared,
        kernel.metadata.num_warps,
        kernel.asm["ttir"].count("tt.dot "),
        sum(x == "HGMMA" for x in opcodes),
        sum(x == "HMMA" for x in opcodes),
        sum(x in ("LDL", "STL") for x in opcodes),
    )


def _cuobjdump(flag: str, cubin: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, flag, cubin], check=True, capture_output=True, text=True).stdout
