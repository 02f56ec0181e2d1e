"""The losses of a test, sequence by sequence and position by position: what two arms are paired by.

`losses.npz` in a run's folder:

    losses    (N, T) float32, NaN where nothing was predicted
    context   (N, T) int16, how many tokens of its own document a position sees before itself
    targets   a checksum of what was predicted: two runs pair only where it is the same
"""

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.data.packing import IGNORED

FILE = "losses.npz"


@dataclass
class Losses:
    """Losses in nats (or of a regression), as above."""

    losses: np.ndarray
    context: np.ndarray
    targets: int

    def save(self, folder: Path) -> None:
        """Writes losses.npz."""
        np.savez_compressed(
            folder / FILE, losses=self.losses, context=self.context, targets=self.targets
        )

    @classmethod
    def read(cls, folder: Path) -> "Losses":
        """Reads losses.npz. Raises FileNotFoundError with the remedy."""
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found; only runs of the myopia tasks write it")
        with np.load(path) as saved:
            return cls(saved["losses"], saved["context"], int(saved["targets"]))


@dataclass
class Collector:
    """Gathers an evaluation's batches."""

    losses: list[np.ndarray] = field(default_factory=list)
    context: list[np.ndarray] = field(default_factory=list)
    checksum: int = 0

    def add(self, losses_BT: Tensor, targets_BT: Tensor, context_BT: Tensor) -> None:
        """One batch; rows without any target do not count."""
        targets, context = targets_BT, context_BT
        counted = targets != IGNORED if not targets.is_floating_point() else targets.isfinite()
        rows = counted.any(-1)
        losses = losses_BT.float().masked_fill(~counted, torch.nan)[rows]
        self.losses.append(losses.cpu().numpy())
        self.context.append(context[rows].cpu().numpy().astype(np.int16))
        self.checksum = zlib.crc32(targets[rows].cpu().numpy().tobytes(), self.checksum)

    def collect(self) -> Losses:
        """All of them."""
        return Losses(np.concatenate(self.losses), np.concatenate(self.context), self.checksum)


def contexts(shape: tuple[int, ...], documents_BT: Tensor | None) -> Tensor:
    """(B, T): the position in its document, counted from where the document enters the window."""
    place = torch.arange(shape[1]).expand(shape[0], -1)
    if documents_BT is None:
        return place
    documents = documents_BT.cpu()
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - torch.where(starts, place, 0).cummax(-1).values
