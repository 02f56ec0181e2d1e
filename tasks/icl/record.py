"""What a layer's attention does at the last token of a prompt, read off any decoder by hooks.

Of each layer, in float32 (arXiv 2212.10559, the released code):

    outputs   after W_O, before the residual sum                      (B, L, C)
    scores    q.k / sqrt(D) of the last token against all, before softmax and mask    (B, L, H, T)
    queries   q / sqrt(D), heads side by side, before any rotation    (B, L, C), or of all tokens

Biases of a position scheme (ALiBi, T5, ...) are no part of the scores: they are the same in every
setting and would only make these look alike. Queries that are compared across prompts are taken before
rotation, since two prompts put the same token at different places.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tasks.errors import UserError
from zoo.decoder import Decoder


@dataclass
class Records:
    """One forward pass, layer by layer; stacked by the properties."""

    last_B: Tensor
    every_token: bool = False
    outputs: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)

    @property
    def outputs_BLC(self) -> Tensor:
        """Attention outputs at the last token."""
        return torch.stack(self.outputs, 1)

    @property
    def scores_BLHT(self) -> Tensor:
        """Scores of the last token; what stands at and behind the padding means nothing."""
        return torch.stack(self.scores, 1)

    @property
    def queries_BLC(self) -> Tensor:
        """Scaled queries of the last token; with `every_token` (B, L, T, C), of them all."""
        return torch.stack(self.queries, 1)


@contextmanager
def recording(model: Decoder, last_B: Tensor, *, every_token: bool = False) -> Iterator[Records]:
    """Records the forward pass made inside the block; `last_B` is each row's last token."""
    records = Records(last_B, every_token)
    handles = [
        block.mixer.register_forward_hook(_hook(records))  # type: ignore[union-attr]
        for block in model.blocks
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _hook(records: Records) -> Any:
    @torch.no_grad()
    def record(mixer: Any, given: tuple, output_BTC: Tensor) -> None:
        x_BTC, position = given[:2]
        q_BHTD, k_BGTD, _ = mixer.heads(x_BTC)
        scale = q_BHTD.shape[-1] ** -0.5
        turned_q, turned_k, _ = position.rotate(q_BHTD, k_BGTD)
        groups = mixer.num_heads // mixer.num_kv_heads
        k_BHTD = turned_k.float().repeat_interleave(groups, dim=1)
        last_BHD = _at(turned_q.transpose(1, 2), records.last_B).float() * scale
        records.outputs.append(_at(output_BTC, records.last_B).float())
        records.scores.append(torch.einsum("bhd,bhtd->bht", last_BHD, k_BHTD))
        q_BTC = q_BHTD.transpose(1, 2).flatten(2)
        kept = q_BTC if records.every_token else _at(q_BTC, records.last_B)
        records.queries.append(kept.float() * scale)

    return record


def _at(x_BT: Tensor, last_B: Tensor) -> Tensor:
    return x_BT[torch.arange(len(last_B), device=x_BT.device), last_B.to(x_BT.device)]


def check_readable(model: Decoder) -> None:
    """Raises UserError for a mixer that does not show its heads (as SoftmaxAttention does)."""
    for block in model.blocks:
        mixer = block.mixer
        if not (hasattr(mixer, "heads") and hasattr(mixer, "qkv")):
            raise UserError(
                f"model.mixer: {type(mixer).__name__} does not show queries, keys and values; "
                "task=icl reads mixers built on zoo.mixers.softmax.SoftmaxAttention"
            )


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows padded on the right, (B, T), and where each one ends, (B,)."""
    width = max(len(row) for row in rows)
    tokens_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row)] = torch.tensor(row)
    return tokens_BT.to(device), torch.tensor([len(row) - 1 for row in rows], device=device)
