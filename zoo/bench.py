"""What the zoo costs over a bare model: `python -m zoo.bench`.

One process, one thread, CPU time, variants interleaved in rotating order; every figure is the median
of the per-round ratios to a bare hand-written model of the same shapes timed in the same round. Shared machines are
noisy: such ratios repeat within a few percent where milliseconds do not.

    step      forward, backward, AdamW: 6 layers, width 256, 4 heads, T 256, B 8
    memory    growth of the peak resident size over three steps, each in a fresh process
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from zoo.decoder import Decoder
from zoo.load import build

LAYERS, WIDTH, HEADS, LENGTH, BATCH = 6, 256, 4, 256, 8


class BareBlock(nn.Module):
    """A pre-norm block with nothing in it that could be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm2 = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, HEADS, C // HEADS).transpose(1, 2) for y in (q, k, v))
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(gelu(self.up(self.norm2(x))))


class Bare(nn.Module):
    """The yardstick: a GPT by hand on scaled_dot_product_attention, tied head, learned positions."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(BareBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, None]:
        x = self.tokens(tokens_BT) + self.places(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits_BTV = self.head(self.norm(x))
        return cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten()), None


def zoo_model(name: str, vocab_size: int) -> Decoder:
    """A preset of conf/model at the benchmark's shape."""
    return build(preset(name, vocab_size), key="model")


def preset(name: str, vocab_size: int) -> dict:
    """The config node of a preset, put together from conf/ without Hydra."""
    import yaml

    conf = Path(__file__).parent.parent / "conf"

    def read(path: str) -> dict:
        return yaml.safe_load((conf / path).read_text())

    node = read(f"model/{name}.yaml")
    masks = [d["override /mask"] for d in node.pop("defaults") if "override /mask" in d]
    mask = masks[0] if masks else "causal"
    return {
        **read("model/decoder.yaml"),
        **node.get("model", node),
        "mixer": read("mixer/softmax.yaml"),
        "mask": read(f"mask/{mask}.yaml"),
        "vocab_size": vocab_size,
        "context_length": LENGTH,
        "num_layers": LAYERS,
        "width": WIDTH,
        "num_heads": HEADS,
    }


def step_of(model: nn.Module, vocab_size: int, *, bf16: bool = False) -> Callable[[], None]:
    """One training step on fixed random tokens, as a function of nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (BATCH, LENGTH + 1), generator=draw)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss, _ = model.loss(inputs, targets)  # type: ignore[operator]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def variants(vocab_size: int, *, compiled: bool) -> dict[str, Callable[[], None]]:
    """What is timed: name -> one training step."""
    steps = {
        "bare": step_of(Bare(vocab_size), vocab_size),
        "gpt2": step_of(zoo_model("gpt2", vocab_size), vocab_size),
        "xpos": step_of(zoo_model("xpos", vocab_size), vocab_size),
        "gpt2 bf16": step_of(zoo_model("gpt2", vocab_size), vocab_size, bf16=True),
        "xpos bf16": step_of(zoo_model("xpos", vocab_size), vocab_size, bf16=True),
    }
    if compiled:
        model = zoo_model("xpos", vocab_size)
        model.loss = torch.compile(model.loss)  # type: ignore[method-assign]
        steps["xpos compiled"] = step_of(model, vocab_size)
    return steps


def ratios(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median over the rounds of each variant's CPU time against the first's, in rotating order."""
    names = list(steps)
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    base = times[names[0]]
    return {
        name: statistics.median(own / bare for own, bare in zip(times[name], base))
        for name in names
    }


def memory(name: str, vocab_size: int) -> float:
    """MB that three training steps add to the peak resident size, in a fresh process."""
    model = f"Bare({vocab_size})" if name == "bare" else f"zoo_model({name!r}, {vocab_size})"
    code = f"from zoo import bench; print(bench.growth(bench.{model}, {vocab_size}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def growth(model: nn.Module, vocab_size: int) -> float:
    """MB that three training steps add to this process's peak (Linux: its mark can be reset)."""
    torch.set_num_threads(1)
    step = step_of(model, vocab_size)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mb()
    for _ in range(3):
        step()
    return _peak_mb() - before


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status: memory is measured on Linux only")


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; `--json FILE` also writes it."""
    parser = argparse.ArgumentParser(prog="python -m zoo.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    for vocab_size in (256, 8192):
        compiled = not options.no_compile and vocab_size == 256
        found = ratios(variants(vocab_size, compiled=compiled), options.rounds)
        for name, ratio in list(found.items())[1:]:
            rows[f"step, {name}, V {vocab_size}"] = ratio
        bare = memory("bare", vocab_size)
        for name in ("gpt2", "xpos"):
            rows[f"memory, {name}, V {vocab_size}"] = memory(name, vocab_size) / bare
    for name, ratio in rows.items():
        print(f"{name:32s} {ratio:6.3f}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, CPU time")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
