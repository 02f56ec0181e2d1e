"""Which held-out tokens are read: whole spans from inside documents, the same at every length.

A span is `longest` + 1 consecutive tokens of one document. At length L it is cut into longest / L
segments, each read from empty context, so that every length predicts the very same `longest` tokens
of it (arXiv 2212.10554 §4: the first 4k tokens of each document, cut into segments of the target
length, perplexity over all tokens).

Unless only the beginnings are asked for, spans lie anywhere in their documents: if all of them began
one, the position inside a segment would also be that inside a document, and loss by position would
tell of title pages and licences.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.data.packing import IGNORED, PackedDataset


@dataclass(frozen=True)
class Spans:
    """tokens_ML1 (M, longest + 1) int64; bytes_ML (M, longest): of text under each target."""

    tokens: Tensor
    bytes: Tensor

    @property
    def longest(self) -> int:
        """The tokens that each span predicts."""
        return self.tokens.shape[1] - 1

    def __len__(self) -> int:
        return len(self.tokens)

    def share(self, rank: int, world_size: int) -> "Spans":
        """One rank's share: as many spans on every rank, filled up with spans that do not count."""
        if world_size == 1:
            return self
        index = torch.arange(rank, -(-len(self) // world_size) * world_size, world_size)
        tokens, sizes = self.tokens[index % len(self)], self.bytes[index % len(self)]
        beyond = index >= len(self)
        tokens[beyond], sizes[beyond] = IGNORED, 0
        return Spans(tokens, sizes)

    def segments(self, length: int, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Batches of (tokens, targets), at most `rows` segments of `length` each: (R, length)."""
        count = self.longest // length
        targets = self.tokens[:, 1:].reshape(-1, length)
        tokens = self.tokens[:, :-1].clamp(min=0).reshape(-1, length)
        assert len(tokens) == count * len(self)
        return list(zip(tokens.split(rows), targets.split(rows)))


def read_spans(
    dataset: PackedDataset,
    *,
    longest: int,
    max_tokens: int | None = None,
    per_document: int | None = None,
) -> Spans:
    """Spans of a split, side by side inside documents; one of each document comes before a second of any.

    max_tokens: ends the row (after at least one span), so that few tokens still come from many
    documents. per_document: only the first spans of each, from its start; None: all that fit, from
    anywhere. With `cross_documents` the split is one document.
    Raises ValueError where no document is long enough.
    """
    whole = PackedDataset(
        path=dataset.path,
        context_length=dataset.context_length,
        cross_documents=dataset.cross_documents,
    )
    ends = whole.offsets.astype(np.int64)
    if whole.cross_documents:
        ends = ends[[0, -1]]
    starts = _starts(ends, longest, per_document)
    if not len(starts):
        raise ValueError(
            f"lengths: no document of the test split has the {longest + 1:,} tokens that length "
            f"{longest:,} needs (the longest has {int(np.diff(ends).max()):,}); lower task.lengths, "
            "give longer documents, or read across them with data.cross_documents=true"
        )
    if max_tokens is not None:
        starts = starts[: max(1, max_tokens // longest)]
    places = starts[:, None] + np.arange(longest + 1)
    tokens = torch.from_numpy(whole.tokens[places].astype(np.int64))
    sizes = whole.token_bytes(places[:, 1:].reshape(-1)).reshape(len(starts), longest)
    return Spans(tokens, torch.from_numpy(sizes.astype(np.int64)))


def _starts(ends: np.ndarray, longest: int, per_document: int | None) -> np.ndarray:
    """First tokens of the spans, a document's spread by multiples of the golden ratio's fraction."""
    tokens = np.maximum(np.diff(ends) - 1, 0)
    fit = tokens // longest
    spread = (np.arange(1, len(fit) + 1) * 0.6180339887498949) % 1.0
    offset = (spread * (tokens - fit * longest + 1)).astype(np.int64)
    first = (spread * fit).astype(np.int64)
    if per_document is not None:
        fit, offset, first = np.minimum(fit, per_document), 0 * offset, 0 * first
    rows = [
        (ends[:-1] + offset + (first + turn) % np.maximum(fit, 1) * longest)[fit > turn]
        for turn in range(int(fit.max(initial=0)))
    ]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
