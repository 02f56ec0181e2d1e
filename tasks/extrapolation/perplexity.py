"""Loss by length, mask and position, over the same target tokens at every length.

    ppl@L = exp(mean loss)        late_ppl@L = exp(mean loss over the last min(L, N/2) positions)

A segment of length L starts from empty context, so longer segments have more context on average:
where a model can use it, perplexity falls with L. What breaks breaks late, and shows there first.
Shapes: M spans, R segments a batch, L segment length.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention.masks import Mask
from tasks.extrapolation.spans import Spans
from zoo.decoder import Decoder

Reduce = Callable[[Tensor], Tensor]  # sums over all ranks


@dataclass(frozen=True)
class Losses:
    """Of all segments of one length under one mask: summed nats and counted targets by position,
    (L,) float64 each, and the bytes of text under all targets."""

    nats: Tensor
    count: Tensor
    bytes: float

    def loss(self, last: int | None = None) -> float:
        """Mean loss in nats per token, over the last positions alone where `last` says so."""
        part = slice(None if last is None else -last, None)
        return float(self.nats[part].sum() / self.count[part].sum())

    def perplexity(self, last: int | None = None) -> float:
        """exp of `loss`, infinite where that overflows."""
        loss = self.loss(last)
        return math.exp(loss) if loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Summed loss in bits over the bytes that the targets spell."""
        return float(self.nats.sum()) / (self.bytes * math.log(2))

    def by_position(self) -> tuple[list[float], list[float]]:
        """(positions, perplexities) over bins that grow with the position, two an octave.

        Positions count from 1 and stand for their bin by its geometric middle.
        """
        length = len(self.nats)
        steps = 2 * math.ceil(math.log2(length)) + 1
        edges = sorted({min(length, round(2 ** (i / 2))) for i in range(steps)} | {0, length})
        middles, values = [], []
        for low, high in itertools.pairwise(edges):
            loss = float(self.nats[low:high].sum() / self.count[low:high].sum())
            middles.append(math.sqrt((low + 1) * high))
            values.append(math.exp(min(loss, 700)))
        return middles, values


def measure(
    model: Decoder,
    spans: Spans,
    *,
    lengths: list[int],
    masks: Mapping[str, Mask],
    tokens_per_batch: int,
    reduce: Reduce = lambda x: x,
) -> dict[tuple[int, str], Losses]:
    """(length, mask's name) -> losses. Lengths beyond `model.max_length` are left out.

    Masks that hide the same pairs at a length are measured once.
    """
    found: dict[tuple[int, str], Losses] = {}
    for length in lengths:
        if model.max_length is not None and length > model.max_length:
            continue
        done: dict[Mask, Losses] = {}
        for name, mask in masks.items():
            mask = mask.within(length)
            if mask not in done:
                done[mask] = _measure(model, spans, length, mask, tokens_per_batch, reduce)
            found[length, name] = done[mask]
    return found


def _measure(
    model: Decoder, spans: Spans, length: int, mask: Mask, tokens_per_batch: int, reduce: Reduce
) -> Losses:
    device = next(model.parameters()).device
    nats, count = torch.zeros(2, length, dtype=torch.float64, device=device)
    for tokens_RL, targets_RL in spans.segments(length, max(1, tokens_per_batch // length)):
        targets_RL = targets_RL.to(device)
        _, losses_RL = model.loss(tokens_RL.to(device), targets_RL, mask=mask)
        nats += losses_RL.double().sum(0)
        count += (targets_RL >= 0).sum(0)
    sizes = reduce(spans.bytes.sum().double().to(device))
    return Losses(reduce(nats).cpu(), reduce(count).cpu(), float(sizes))
