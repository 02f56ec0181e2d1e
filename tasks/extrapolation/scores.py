"""Expected attention scores by distance: those of a trained model, and those of a scheme alone.

Measured (arXiv 2212.10554, Eq 11), e the score before the softmax, 1/sqrt(D) and every bias included:

    s[n] = mean of e_(i, i-n) over texts and over the pairs at distance n that the mask allows

by layer and head. Under a mask that limits the distance s ends where the mask does (blockwise
causal attention of block N/2: 0 .. N-1).

Of the scheme alone (§2, the curve g): every content alike, q = k = (1, ..., 1)/sqrt(2),

    RoPE  g[n] = sum_i cos(n theta_i)      xPos  g[n] = sum_i cos(n theta_i) zeta_i^(n/S)

and with the biases added for the schemes that have them; for vectors added at the input (learned,
sinusoidal) their inner product P_i . P_(i-n), averaged over i.

Shapes: B texts, H heads, T tokens, R distances, D head width, C width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kernels.attention.masks import Mask
from zoo.decoder import Decoder
from zoo.positions.base import Position, distances


class ScoreSums:
    """Sums of one layer's scores by head and distance, over as many texts as are given to it."""

    def __init__(self) -> None:
        self.sums_HR: Tensor | None = None
        self.count_R: Tensor | None = None

    def add(self, scores_BHTT: Tensor) -> None:
        """Adds the allowed pairs of a batch; -inf stands for the others."""
        B, H, T, _ = scores_BHTT.shape
        allowed = ~scores_BHTT[0, 0].isneginf()
        at = distances(T, T, scores_BHTT.device)[allowed]
        summed = scores_BHTT.double().sum(0)[:, allowed]
        sums_HR = summed.new_zeros(H, T).index_add_(1, at, summed)
        count_R = torch.bincount(at, minlength=T) * B
        self.sums_HR = sums_HR if self.sums_HR is None else self.sums_HR + sums_HR
        self.count_R = count_R if self.count_R is None else self.count_R + count_R

    def mean(self) -> Tensor:
        """(H, R) float64 on the CPU, up to the largest distance that the mask allows."""
        assert self.sums_HR is not None and self.count_R is not None
        seen = self.count_R > 0
        return (self.sums_HR[:, seen] / self.count_R[seen]).cpu()


@contextmanager
def recorded(model: Decoder) -> Iterator[list[ScoreSums]]:
    """While open, every forward pass adds each layer's scores; layers without any give none.

    The scores are taken inside the layer's own forward pass, where its weights are at hand however
    they are sharded.
    """
    records: list[ScoreSums] = []
    hooks = []
    for module in model.modules():
        if callable(getattr(module, "scores", None)):
            record = ScoreSums()
            records.append(record)
            hooks.append(module.register_forward_pre_hook(_recorder(record)))
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def _recorder(record: ScoreSums):
    def hook(mixer: nn.Module, inputs: tuple) -> None:
        x_BTC, position, mask = inputs[:3]
        record.add(mixer.scores(x_BTC, position, mask))  # type: ignore[operator]

    return hook


@torch.no_grad()
def expected_scores(
    model: Decoder, tokens_BT: Tensor, *, mask: Mask, elements_per_batch: int = 1 << 24
) -> list[Tensor]:
    """s of each layer that has scores, (H, R) float64, over these texts.

    elements_per_batch: bounds the (B, H, T, T) scores that are held at once.
    """
    heads, length = model.position.num_heads, tokens_BT.shape[1]
    rows = max(1, elements_per_batch // (heads * length**2))
    with recorded(model) as records:
        for part in tokens_BT.split(rows):
            model.hidden(part, mask=mask)
    return [record.mean() for record in records]


@torch.no_grad()
def scheme_curve(position: Position, length: int, *, scaled: bool = True) -> Tensor:
    """The scheme's own curve, (H, length) or where all heads agree (1, length), float64.

    scaled: divides what rotation and input vectors give by sqrt(D), as attention does, so that it
    stands in the units of the biases. Without, g as printed in the paper. The last of `length`
    positions is the query. Raises ValueError beyond `position.max_length`.
    """
    D, H, C = position.head_dim, position.num_heads, position.width
    owned = (*position.parameters(), *position.buffers())
    f64: dict = {"dtype": torch.float64, "device": owned[0].device if owned else None}
    alike = torch.full((1, H, length, D), 0.5**0.5, **f64)
    q, k, _ = position.rotate(alike[:, :, -1:], alike)
    vectors_RC = position.embed(torch.zeros(1, length, C, **f64))[0].double()
    score_HR = (q @ k.mT)[0, :, 0].flip(-1) + _autocorrelation(vectors_RC)
    if scaled:
        score_HR = score_HR / D**0.5
    slopes, bias = position.slopes(), position.bias(1, length, device=f64["device"])
    if slopes is not None:
        score_HR = score_HR - slopes.double()[:, None] * torch.arange(length, **f64)
    if bias is not None:
        score_HR = score_HR + bias[:, 0].double().flip(-1)
    same = bool((score_HR == score_HR[:1]).all())
    return (score_HR[:1] if same else score_HR).cpu()


def _autocorrelation(vectors_RC: Tensor) -> Tensor:
    """(R,): the mean of v_i . v_(i-n) over all i >= n, by way of the power spectrum."""
    length = len(vectors_RC)
    power = torch.fft.rfft(vectors_RC, n=2 * length, dim=0).abs().square().sum(-1)
    sums_R = torch.fft.irfft(power, n=2 * length)[:length]
    return sums_R / torch.arange(length, 0, -1, device=sums_R.device)
