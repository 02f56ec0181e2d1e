"""Fine-tuning matched to in-context learning (arXiv 2212.10559 §4.2, and the released code).

The same demonstrations in the same order, one pass, one plain SGD step each, on the keys' and values'
projections of every layer (weights and biases) and nothing else:

    W_K, W_V  <-  W - lr dL/dW        L = mean over the tokens after the start of -log p

No momentum, no weight decay, no warm-up, no clipping. `loss_on="answer"` counts the answer's tokens
alone (not the paper's).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from tasks.icl.episodes import Episode
from tasks.icl.record import padded, recording
from zoo.decoder import Decoder

LossOn = Literal["all", "answer"]


class KeysAndValues:
    """The projections to keys and values of every layer, as rows of the fused `qkv`."""

    def __init__(self, model: Decoder):
        self.parts: list[tuple[Tensor, int]] = []  # parameter, its first row that counts
        for block in model.blocks:
            mixer: Any = block.mixer
            first = mixer.num_heads * mixer.head_dim
            self.parts += [(p, first) for p in (mixer.qkv.weight, mixer.qkv.bias) if p is not None]

    def step(self, loss: Tensor, lr: float) -> None:
        """One plain SGD step."""
        grads = torch.autograd.grad(loss, [p for p, _ in self.parts])
        with torch.no_grad():
            for (p, first), grad in zip(self.parts, grads):
                p[first:] -= lr * grad[first:]

    def copy(self) -> list[Tensor]:
        """Their present values."""
        return [p.detach()[first:].clone() for p, first in self.parts]

    @torch.no_grad()
    def load(self, values: list[Tensor]) -> None:
        """Sets them."""
        for (p, first), value in zip(self.parts, values):
            p[first:] = value


@contextmanager
def only(model: Decoder) -> Iterator[KeysAndValues]:
    """Gradients for keys and values alone inside the block; the weights are as before after it."""
    wanted = KeysAndValues(model)
    before = {p: p.requires_grad for p in model.parameters()}
    original = wanted.copy()
    trained = {id(p) for p, _ in wanted.parts}
    try:
        for p in model.parameters():
            p.requires_grad_(id(p) in trained)
        yield wanted
    finally:
        wanted.load(original)
        for p, value in before.items():
            p.requires_grad_(value)


def finetune(
    model: Decoder, episode: Episode, *, lr: float, loss_on: LossOn = "all"
) -> tuple[KeysAndValues, Tensor]:
    """One pass over the demonstrations, in place (call it inside `only`).

    Returns the trained part, and the demonstrations' query vectors (tokens, L, C) under the weights
    just before the step on each, in the order of `episode.demonstration_places`.
    """
    device = next(model.parameters()).device
    trained, queries = KeysAndValues(model), []
    start = len(episode.start)
    for demonstration, text in zip(episode.demonstrations, episode.training_texts()):
        tokens_1T, last_1 = padded([text], device)
        targets_1T = tokens_1T.roll(-1, 1)
        unread = start + len(demonstration.question) if loss_on == "answer" else start
        targets_1T[:, : max(unread - 1, 0)] = -100
        targets_1T[:, -1] = -100
        with recording(model, last_1, every_token=True) as records, torch.enable_grad():
            loss, _ = model.loss(tokens_1T, targets_1T)
        queries.append(records.queries_BLC[0, :, start:].transpose(0, 1).cpu())
        trained.step(loss, lr)
    return trained, torch.cat(queries)
