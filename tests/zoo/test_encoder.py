"""The bidirectional encoder: texts to vectors."""

import functools

import pytest
import torch

from zoo.encoder import Encoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU
from zoo.norms import LayerNorm
from zoo.positions.learned import Learned
from zoo.positions.t5 import T5Bias


def made(pooling: str, num_layers: int = 2, position=Learned) -> Encoder:
    torch.manual_seed(0)
    return Encoder(
        vocab_size=11,
        context_length=8,
        num_layers=num_layers,
        width=8,
        num_heads=2,
        position=functools.partial(position),
        mixer=SoftmaxAttention,
        mlp=GELU,
        norm=LayerNorm,
        pooling=pooling,
    ).double()


@pytest.mark.parametrize("position", [Learned, T5Bias])
@pytest.mark.parametrize("num_layers", [0, 2])
@pytest.mark.parametrize("pooling", ["mean", "first", "weighted"])
def test_padding_changes_nothing(pooling: str, num_layers: int, position) -> None:
    """A text must have one vector, whatever it shares a batch with."""
    encoder = made(pooling, num_layers, position)
    if pooling == "weighted":
        torch.nn.init.normal_(encoder.pool.weight)
    text = torch.randint(0, 11, (1, 5))
    alone = encoder(text)
    padded = torch.full((2, 8), 7)
    padded[0, :5] = text
    together = encoder(padded, torch.tensor([5, 8]))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-12)


def test_every_token_sees_those_after_it() -> None:
    encoder = made("mean")
    text = torch.randint(0, 11, (1, 6))
    other = text.clone()
    other[0, -1] = (other[0, -1] + 1) % 11
    assert not torch.allclose(encoder.hidden(text)[0, 0], encoder.hidden(other)[0, 0])


def test_pooling_is_what_it_says() -> None:
    text, lengths = torch.randint(0, 11, (2, 6)), torch.tensor([4, 6])
    encoder = made("mean")
    by_hand = [encoder.hidden(text, lengths)[i, :n].mean(0) for i, n in enumerate([4, 6])]
    torch.testing.assert_close(encoder(text, lengths), torch.stack(by_hand))
    first = made("first")
    pooled = torch.tanh(first.pool(first.hidden(text, lengths)[:, 0]))
    torch.testing.assert_close(first(text, lengths), pooled)
    weighted = made("weighted")  # equal weights before training
    weighted.load_state_dict(encoder.state_dict(), strict=False)
    torch.testing.assert_close(weighted(text, lengths), encoder(text, lengths))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"pooling": "max"}, "pooling: must be one of mean, first, weighted"),
        ({"num_layers": -1}, "num_layers: must be at least 0"),
    ],
)
def test_refuses_by_name(settings: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        made(**{"pooling": "mean", **settings})
