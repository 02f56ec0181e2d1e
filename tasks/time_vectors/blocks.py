"""Windows with the block before them, for models that read one block and predict the next."""

from typing import Any

import numpy as np
import torch

from tasks.data.packing import PackedDataset

BEFORE = -1  # where the text has not begun


class NextBlock(PackedDataset):
    """`PackedDataset` whose batches also have `sources_BT`: the T tokens before the targets.

    Side by side, windows make every pair of neighbouring blocks: the source of one is the target of
    the one before. BEFORE stands where there is no text yet.
    """

    def at(self, starts: np.ndarray) -> dict[str, Any]:
        return super().at(starts) | {"sources_BT": self._sources(np.asarray(starts))}

    def batch(self, indices: Any) -> dict[str, Any]:
        index_B = np.maximum(np.asarray(indices, dtype=np.int64), 0)
        sources = self._sources(index_B * self.context_length)
        return super().batch(indices) | {"sources_BT": sources}

    def _sources(self, starts: np.ndarray) -> torch.Tensor:
        at_BT = starts[:, None] + 1 + np.arange(-self.context_length, 0)
        found = self.tokens[np.maximum(at_BT, 0)].astype(np.int64)
        return torch.from_numpy(np.where(at_BT >= 0, found, BEFORE))

    def __reduce__(self) -> tuple:
        settings = (self.path, self.context_length, self.cross_documents, self.max_tokens)
        return _reopen, settings


def _reopen(*settings: Any) -> NextBlock:
    path, length, cross, limit = settings
    return NextBlock(path=path, context_length=length, cross_documents=cross, max_tokens=limit)
