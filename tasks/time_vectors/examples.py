"""Labelled documents for models that read a text and write an answer: a row a document.

    sources_BT   [-1 … -1] prompt eos      at most context_length tokens, the prompt's end cut off
    targets_BT   answer eos [-100 …]       at most answer_length

Both are as wide as the longest of the split.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.packing import IGNORED, PackedDataset
from tasks.errors import UserError
from tasks.time_vectors.blocks import BEFORE


class Examples(PackedDataset):
    """Prompts and answers, two files of a tokens stage with the same documents.

    max_tokens: of both together, whole examples only, but at least one; None is all.
    size: how many tokens there are.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        answers: str | Path,
        context_length: int,
        answer_length: int,
        max_tokens: int | None = None,
    ):
        super().__init__(path=path, context_length=context_length)
        if self.eos is None:
            raise UserError("data.examples: needs a tokenizer with an end mark; take another one")
        self.end: int = self.eos
        self.answers = PackedDataset(path=answers, context_length=answer_length)
        self.max_tokens = max_tokens
        lengths = np.diff(self.offsets), np.diff(self.answers.offsets)
        sizes = np.cumsum(lengths[0] + lengths[1])
        count = len(sizes)
        if max_tokens is not None:
            count = min(count, max(1, int(np.searchsorted(sizes, max_tokens, side="right"))))
        self.count, self.size = count, int(sizes[count - 1])
        self._texts, self.rows = self.tokens, self.rows[:count]
        self.widths = tuple(
            min(limit, int(length[:count].max()))
            for limit, length in zip((context_length, answer_length), lengths)
        )
        # What the order of training counts: a document takes the place of a window, whole and once
        # an epoch. No memory is behind it.
        self.tokens = np.broadcast_to(np.uint8(0), ((count + 1) * context_length,))

    def __len__(self) -> int:
        return self.count

    def at(self, starts: np.ndarray) -> dict[str, Any]:
        return self._rows(np.asarray(starts) // self.context_length)

    def batch(self, indices: Any) -> dict[str, Any]:
        """As in `PackedDataset`; `bytes` are the answers'."""
        index_B = np.asarray(indices, dtype=np.int64)
        batch = self._rows(np.maximum(index_B, 0))
        batch["targets_BT"][torch.from_numpy(index_B < 0)] = IGNORED
        places = [self._answer(i)[1] for i in index_B if i >= 0]
        counted = np.concatenate([np.arange(0), *places])
        batch["bytes"] = torch.tensor(int(self.answers.token_bytes(counted).sum()))
        return batch

    def _rows(self, index_B: np.ndarray) -> dict[str, Any]:
        sources_BT = torch.full((len(index_B), self.widths[0]), BEFORE)
        targets_BT = torch.full((len(index_B), self.widths[1]), IGNORED)
        for row, index in enumerate(index_B):
            start, stop = self.offsets[index], self.offsets[index + 1]
            ids = self._texts[start + 1 : min(stop, start + self.widths[0])].astype(np.int64)
            sources_BT[row, self.widths[0] - 1 - len(ids) : -1] = torch.from_numpy(ids)
            sources_BT[row, -1] = self.end
            ids = self._answer(index)[0]
            targets_BT[row, : len(ids)] = torch.from_numpy(ids)
            if len(ids) < self.widths[1]:
                targets_BT[row, len(ids)] = self.end
        return {"sources_BT": sources_BT, "targets_BT": targets_BT, "tokens_BT": sources_BT}

    def _answer(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of an answer without its end, and their places."""
        start, stop = (int(self.answers.offsets[index + i]) for i in (0, 1))
        places = np.arange(start + 1, min(stop, start + 1 + self.widths[1]))
        return self.answers.tokens[places].astype(np.int64), places

    def __reduce__(self) -> tuple:
        settings = (self.path, self.answers.path, self.context_length,
                    self.answers.context_length, self.max_tokens)  # fmt: skip
        return _reopen, settings


def _reopen(*settings: Any) -> Examples:
    path, answers, length, answer_length, limit = settings
    return Examples(path=path, answers=answers, context_length=length,
                    answer_length=answer_length, max_tokens=limit)  # fmt: skip
