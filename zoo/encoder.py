"""A bidirectional encoder of the zoo's parts: a text becomes one vector.

    tokens -> embedding (+ position.embed) -> [ x += mixer(norm x);  x += mlp(norm x) ] x N -> norm -> pool

Every token sees every token of its own row and no padding, which is a prefix mask over the row's
length. Pooling over the row's n tokens h_1 .. h_n:

    mean       1/n sum_t h_t                                   (Reimers and Gurevych 2019)
    first      tanh(W h_1 + b), BERT's pooler                  (Devlin et al. 2018)
    weighted   sum_t a_t h_t,  a = softmax_t(w . h_t)          starts as the mean

With `num_layers=0` and `weighted` it is a bag of words that learns which words matter.
Shapes: B texts, T tokens, C width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from kernels.attention.masks import full, prefix
from zoo.blocks import PreNorm
from zoo.init import initialise
from zoo.positions.base import Position

POOLINGS = ("mean", "first", "weighted")


class Encoder(nn.Module):
    """Parts as in `zoo.decoder.Decoder`, which explains their constructors; no mask, no head.

    context_length: tokens of the longest text.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        num_layers: int,
        width: int,
        num_heads: int,
        position: Callable[..., Position],
        mixer: Callable[..., nn.Module],
        mlp: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        pooling: Literal["mean", "first", "weighted"] = "mean",
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, value, least in (
            ("vocab_size", vocab_size, 1),
            ("context_length", context_length, 1),
            ("num_layers", num_layers, 0),
            ("width", width, 1),
            ("num_heads", num_heads, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if width % num_heads:
            raise ValueError(
                f"width: {width} is not divisible by num_heads={num_heads}; use a multiple"
            )
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: must be in [0, 1), got {dropout}")
        self.context_length = context_length
        self.width = width
        self.pooling = pooling
        self.dropout = dropout

        def new_position() -> Position:
            return position(
                num_heads=num_heads,
                head_dim=width // num_heads,
                width=width,
                context_length=context_length,
            )

        self.embedding = nn.Embedding(vocab_size, width)
        self.position = new_position()
        self.blocks = nn.ModuleList(
            PreNorm(
                width=width,
                mixer=mixer(width=width, num_heads=num_heads, dropout=dropout),
                mlp=mlp(width, dropout=dropout),
                norm=norm,
            )
            for _ in range(num_layers)
        )
        self.layer_positions = nn.ModuleList(
            () if self.position.shared else (new_position() for _ in range(num_layers - 1))
        )
        self.norm = norm(width)
        self.pool: nn.Module = nn.Identity()
        if pooling == "first":
            self.pool = nn.Linear(width, width)
        elif pooling == "weighted":
            self.pool = nn.Linear(width, 1, bias=False)
        initialise(self, width=width, num_layers=max(num_layers, 1))
        if isinstance(self.pool, nn.Linear) and pooling == "weighted":
            nn.init.zeros_(self.pool.weight)

    def hidden(self, tokens_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """The normalised output at each token, (B, T, C); meaningless beyond a row's length."""
        mask = full() if lengths_B is None else prefix(lengths_B)
        x_BTC = self.position.embed(self.embedding(tokens_BT))
        if self.dropout:
            x_BTC = drop(x_BTC, self.dropout, self.training)
        positions = [self.position, *self.layer_positions]
        for i, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, positions[i % len(positions)], mask)
        return self.norm(x_BTC)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Vectors (B, C) of right-padded texts.

        lengths_B: tokens of each row, at least 1; None where no row has padding.
        """
        h_BTC = self.hidden(tokens_BT, lengths_B)
        if self.pooling == "first":
            return torch.tanh(self.pool(h_BTC[:, 0]))
        scores_BT = (
            self.pool(h_BTC)[..., 0]
            if self.pooling == "weighted"
            else h_BTC.new_zeros(tokens_BT.shape)
        )
        if lengths_B is not None:
            place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            beyond_BT = place_T >= lengths_B[:, None].to(place_T.device)
            scores_BT = scores_BT.masked_fill(beyond_BT, -torch.inf)
        return (scores_BT.softmax(-1)[:, None] @ h_BTC)[:, 0]
