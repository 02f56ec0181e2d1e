"""What momentum costs in training: `python -m tasks.momentum.bench`.

One training step (forward, backward, AdamW) of the same decoder with mixer=momentum against
mixer=softmax: 4 layers, width 256, 4 heads of 64, RoPE, T = 1024, B = 2, bytes, in float32 and under
bfloat16 autocast, each against its own. One process, one thread, CPU time, interleaved in rotating order;
each figure is the median over the rounds of the ratio to the plain mixer's step of the same round. On
paper the scan adds about 3 % to the attention core.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.bench import preset, ratios
from zoo.load import build

LENGTH, BATCH, VOCAB = 1024, 2, 256
ARMS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "momentum": {"eta": 0.5},
    "momentum, one eta a head": {"eta": 0.5, "per_head": True},
    "momentum, learned": {"eta": 0.5, "learned": True, "per_head": True},
}


def step_of(mixer: dict[str, Any] | None, *, bf16: bool = False) -> Callable[[], None]:
    """One training step on fixed random tokens, in float32 or under bfloat16 autocast."""
    node = preset("rope", VOCAB)
    node |= {"context_length": LENGTH, "num_layers": 4, "width": 256, "num_heads": 4}
    if mixer is not None:
        node["mixer"] = {"_target_": "zoo.mixers.momentum.Momentum", "_partial_": True, **mixer}
    torch.manual_seed(0)
    model = build(node, key="model")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (BATCH, LENGTH + 1), generator=draw)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = model.loss(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; `--json FILE` also writes it."""
    parser = argparse.ArgumentParser(prog="python -m tasks.momentum.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    for suffix, bf16 in (("", False), (" bf16", True)):
        steps = {name: step_of(mixer, bf16=bf16) for name, mixer in ARMS.items()}
        found = list(ratios(steps, options.rounds).items())[1:]
        rows |= {f"step, {name}{suffix}, T {LENGTH}": ratio for name, ratio in found}
    for name, ratio in rows.items():
        print(f"{name:42s} {ratio:6.3f}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, CPU time")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
