"""Windows of a split's tokens, as a model wants them.

The documents of a split stand end to end (see `tokenizers` for what stands between them). Window i
reads tokens [iT, iT + T) and predicts [iT + 1, iT + T + 1), so side by side the windows predict
every token but the very first exactly once.

Attention does not cross a boundary between documents (unless `cross_documents`): `documents_BT`
says which document each position belongs to. With an `eos`, the first token of a document is
predicted from the `eos` before it, and the `eos` from the end of the document before: both are fair
targets, and none is left out. Without one, the first token of a document would have to be predicted
from text that it does not belong to: its target is IGNORED.

Shapes: B windows, T context length, N tokens of the split.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.arrow import Mapped, read_batch

IGNORED = -100

_CHUNK = 1 << 21


class PackedDataset(torch.utils.data.Dataset):
    """The windows of one split of a tokens stage, memory-mapped; safe to send to workers.

    path: `{split}.arrow` of `tasks.data.tokens`. max_tokens: predict no more than these (None: all);
    the order of val and test documents makes the beginning a random sample.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        context_length: int,
        cross_documents: bool = False,
        max_tokens: int | None = None,
    ):
        self.path = Path(path)
        self.context_length = context_length
        self.cross_documents = cross_documents
        self.max_tokens = max_tokens
        self._open()

    def _open(self) -> None:
        about = json.loads((self.path.parent / "tokenizer.json").read_text())
        self.vocab_size: int = about["vocab_size"]
        self.eos: int | None = about["eos"]
        self._map = Mapped(self.path)
        batch = read_batch(self._map)
        tokens = batch["tokens"].values.to_numpy(zero_copy_only=True)
        self.offsets: np.ndarray = batch["tokens"].offsets.to_numpy(zero_copy_only=True)
        self.rows: np.ndarray = batch["document"].to_numpy(zero_copy_only=True)
        table = self.path.parent / "token_bytes.npy"
        self._table = np.load(table) if table.exists() else None
        self._spans = None
        if self._table is None:
            self._spans = batch["spans"].values.to_numpy(zero_copy_only=True)
        end = len(tokens) if self.max_tokens is None else min(len(tokens), self.max_tokens + 1)
        self.tokens: np.ndarray = tokens[:end]
        width = min(self.context_length + 1, max(end, 1))
        self._windows = np.lib.stride_tricks.sliding_window_view(self.tokens, width)

    def __reduce__(self) -> tuple:
        settings = (self.path, self.context_length, self.cross_documents, self.max_tokens)
        return _reopen, settings

    def __len__(self) -> int:
        """Windows side by side, the last one perhaps shorter."""
        return -(-max(len(self.tokens) - 1, 0) // self.context_length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Window `index` as a batch of one."""
        return self.batch([index])

    def at(self, starts: np.ndarray) -> dict[str, Tensor]:
        """Windows that start at any token, whole: 0 ≤ start ≤ N - T - 1.

        Returns `tokens_BT`, `targets_BT` int64 and, where a boundary falls into a window that must
        not be crossed, `documents_BT` int32 (which document of the split).
        """
        window = self._windows[starts]
        batch = {
            "tokens_BT": torch.from_numpy(window[:, :-1].astype(np.int64)),
            "targets_BT": torch.from_numpy(window[:, 1:].astype(np.int64)),
        }
        self._mark(batch, starts)
        return batch

    def batch(self, indices: Any) -> dict[str, Any]:
        """Windows of the row of windows, for evaluation: every target counts in exactly one.

        Positions past the end have token 0 and target IGNORED, and so has all of window -1, which
        fills up a batch. Returns what `at` does, and `bytes`: those of text under the batch's
        targets, an int64 scalar.
        """
        index_B = np.asarray(indices, dtype=np.int64)
        starts = np.maximum(index_B, 0) * self.context_length
        at_BT = starts[:, None] + np.arange(self.context_length)
        last = max(len(self.tokens) - 1, 0)
        valid = (at_BT < last) & (index_B >= 0)[:, None]
        tokens = np.where(valid, self.tokens[np.minimum(at_BT, last)], 0)
        following = np.minimum(at_BT + 1, last)
        targets = np.where(valid, self.tokens[following].astype(np.int64), IGNORED)
        batch = {
            "tokens_BT": torch.from_numpy(tokens.astype(np.int64)),
            "targets_BT": torch.from_numpy(targets),
        }
        self._mark(batch, starts)
        counted = batch["targets_BT"].numpy() != IGNORED
        batch["bytes"] = torch.tensor(int(self.token_bytes(following[counted]).sum()))
        return batch

    def _mark(self, batch: dict[str, Tensor], starts: np.ndarray) -> None:
        """Adds `documents_BT` where a window has a boundary, and ignores targets across it."""
        if self.cross_documents:
            return
        T = self.context_length
        first_B = self.offsets.searchsorted(starts, side="right") - 1
        ends_B = self.offsets[np.minimum(first_B + 1, len(self.offsets) - 1)]
        crossed = self.eos is None  # then a target just beyond the window matters as well
        marked = (ends_B < np.minimum(starts + T + crossed, len(self.tokens))).nonzero()[0]
        if not len(marked):
            return
        documents_BT = np.repeat(first_B.astype(np.int32), T).reshape(-1, T)
        for b in marked:
            stop = min(int(starts[b]) + T + crossed, len(self.tokens))
            last = int(self.offsets.searchsorted(stop)) - 1
            begins = (self.offsets[first_B[b] + 1 : last + 1] - starts[b]).tolist()
            for number, begin in enumerate(begins, start=int(first_B[b]) + 1):
                documents_BT[b, begin:] = number
            if crossed:
                batch["targets_BT"][b, torch.tensor(begins) - 1] = IGNORED
        if (documents_BT[:, 0] != documents_BT[:, -1]).any():
            batch["documents_BT"] = torch.from_numpy(documents_BT)

    def token_bytes(self, places: np.ndarray | slice) -> np.ndarray:
        """Bytes of text under the tokens at these places of `tokens`."""
        if self._table is not None:
            return self._table[self.tokens[places]]
        assert self._spans is not None
        return self._spans[places]

    def targets(self) -> Iterator[np.ndarray]:
        """Places in `tokens` of all that is predicted, in order, a few million at a time."""
        for start in range(1, len(self.tokens), _CHUNK):
            stop = min(start + _CHUNK, len(self.tokens))
            counted = np.ones(stop - start, dtype=bool)
            if self.eos is None and not self.cross_documents:
                first, last = self.offsets.searchsorted([start, stop])
                counted[self.offsets[first:last] - start] = False
            yield start + counted.nonzero()[0]
            self.forget()

    def num_targets(self) -> int:
        """How many tokens are predicted."""
        return sum(len(places) for places in self.targets())

    def num_bytes(self) -> int:
        """Bytes of text under all targets."""
        return sum(int(self.token_bytes(p).sum(dtype=np.int64)) for p in self.targets())

    def forget(self) -> None:
        """After a pass over many tokens: hands their pages back to the kernel."""
        self._map.forget()


def _reopen(path: Path, context_length: int, cross: bool, max_tokens: int | None) -> PackedDataset:
    return PackedDataset(
        path=path, context_length=context_length, cross_documents=cross, max_tokens=max_tokens
    )
