"""What the trainer costs over a raw loop: `python -m tasks.bench`.

The same model (gpt2, 6 layers, width 256, T 256, B 8) takes the same batches, once in a bare Python
loop and once under `lightning.Trainer` with what every run has: metrics.csv, progress, clipping, the
schedule. Rounds of each alternate in one process, on one thread, by CPU time; the figure is the median ratio.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from tasks.callbacks.checkpoints import Checkpoints
from tasks.callbacks.meter import Meter
from tasks.callbacks.screen import Screen
from tasks.lm import LanguageModeling
from tasks.metrics_file import MetricsFile
from tasks.optim import AdamW, Budget
from zoo import bench


class Stopwatch(Callback):
    """CPU seconds between the end of the first step and the end of the last."""

    def __init__(self) -> None:
        self.start = self.end = 0.0

    def on_train_batch_end(
        self, trainer: Any, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.end = time.process_time()
        self.start = self.start or self.end


def batches(count: int) -> DataLoader:
    """Random tokens, the same every time."""
    draw = torch.Generator().manual_seed(0)
    shape = (count, bench.BATCH, bench.LENGTH + 1)
    tokens = torch.randint(256, shape, generator=draw)
    return DataLoader(
        [{"tokens_BT": t[:, :-1], "targets_BT": t[:, 1:]} for t in tokens],  # type: ignore[arg-type]
        batch_size=None,
    )


def raw(steps: int) -> float:
    """CPU seconds of steps 2 .. `steps` in a bare loop."""
    model = bench.zoo_model("gpt2", 256)
    optim = AdamW()
    optimizer = optim.optimizer(model)
    start = 0.0
    for batch in batches(steps):
        loss, _ = model.loss(batch["tokens_BT"], batch["targets_BT"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        start = start or time.process_time()
    return time.process_time() - start


def trained(steps: int, folder: Path) -> float:
    """CPU seconds of the same steps under the Trainer, logging and progress on."""
    watch = Stopwatch()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=[MetricsFile(folder=folder)],
        callbacks=[Meter(), Checkpoints(folder=folder, every=10**9), Screen(), watch],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    task = LanguageModeling(
        model=bench.zoo_model("gpt2", 256),
        optim=AdamW(),
        budget=Budget(
            tokens_per_step=bench.BATCH * bench.LENGTH, default_tokens=1, max_steps=steps
        ),
    )
    trainer.fit(task, batches(steps))
    return watch.end - watch.start


def main(arguments: list[str] | None = None) -> int:
    """Prints the median ratio."""
    parser = argparse.ArgumentParser(prog="python -m tasks.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=21)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    raw(3)
    ratios = []
    for i in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            if i % 2:
                bare, ours = raw(options.steps), trained(options.steps, Path(folder))
            else:
                ours, bare = trained(options.steps, Path(folder)), raw(options.steps)
        ratios.append(ours / bare)
    print(f"trainer against a raw loop: {statistics.median(ratios):.3f}  (of {ratios})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
