"""Translation invariance, measured (arXiv 2212.10554, Eq 2 and Table 1).

A text is padded on both sides with tokens that attention is told to ignore; nothing but its place
changes. A model is translation invariant where its output at the real tokens stays the same. What
is reported is the largest change, in nats, of any next-token log-probability.

Text and padding together are never longer than the training length: a change is then the scheme's
doing, not that of positions which training never reached.
"""

import torch
from torch import Tensor

from kernels.attention.masks import causal
from zoo.decoder import Decoder

INVARIANT = 1e-3  # nats; float32 rounding through a small model is about 1e-5


@torch.no_grad()
def translation_change(model: Decoder, tokens_BT: Tensor, *, rows: int = 32) -> float:
    """The largest change of a log-probability, in nats, over shifts of 1, N/4 and N/2.

    tokens_BT: real texts, at least N/2 tokens each; the first N/2 of at most `rows` are used.
    Computed in float32 whatever precision is switched on.
    """
    length = max(1, model.context_length // 2)
    room = model.context_length - length
    real_BT = tokens_BT[:rows, :length]
    change = 0.0
    with torch.autocast(tokens_BT.device.type, enabled=False):
        still = _log_probabilities(model, real_BT, 0, 0)
        for left in sorted({min(1, room), room // 2, room} - {0}):
            moved = _log_probabilities(model, real_BT, left, room - left)
            change = max(change, float((moved - still).abs().max()))
    return change


def _log_probabilities(model: Decoder, real_BT: Tensor, left: int, right: int) -> Tensor:
    """(B, T, V) at the real tokens, between `left` and `right` ignored ones (token 0)."""
    length = real_BT.shape[1]
    padded = torch.nn.functional.pad(real_BT, (left, right))
    place = torch.arange(padded.shape[1], device=real_BT.device)
    documents = (place >= left).int() + (place >= left + length).int()
    documents_BT = documents.expand(len(real_BT), -1)
    logits = model(padded, documents_BT=documents_BT, mask=causal())[:, left : left + length]
    return logits.float().log_softmax(-1)
