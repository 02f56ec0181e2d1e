"""A decoder-only Transformer: embedding, N blocks, final norm, head. It names no variant.

    tokens -> embedding (+ position.embed) -> [ x += mixer(norm x);  x += mlp(norm x) ] x N -> norm -> head
                                                  |
                                                  +-- position.rotate, position.bias, mask

Shapes: B batch, T tokens, C width, V vocabulary, H heads.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.utils.checkpoint import checkpoint

from kernels.attention.masks import Mask, documents
from kernels.cross_entropy.op import linear_cross_entropy
from zoo.blocks import PreNorm
from zoo.cache import Cache, no_cache_with_gradient
from zoo.init import initialise
from zoo.positions.base import Position


class Decoder(nn.Module):
    """Puts the parts together; every variant is a choice of `position`, `mixer`, `mask`, `mlp`, `norm`.

    Each part is given as a constructor that still lacks what only the model knows:

        position(num_heads=, head_dim=, width=, context_length=) -> Position
        mixer(width=, num_heads=, dropout=)  mlp(width, dropout=)  norm(width) -> Module
        mask(context_length=) -> Mask
        block(width=, mixer=, mlp=, norm=) -> how a layer is put together (zoo/blocks.py)

    `context_length` is the length it is trained at. Whether it can read further is the position
    scheme's affair: `max_length` is None where it can.
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
        mask: Callable[..., Mask],
        mlp: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        block: Callable[..., nn.Module] = PreNorm,
        tie_embeddings: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, value in {
            "vocab_size": vocab_size,
            "context_length": context_length,
            "num_layers": num_layers,
            "width": width,
            "num_heads": num_heads,
        }.items():
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if width % num_heads:
            raise ValueError(
                f"width: {width} is not divisible by num_heads={num_heads}; use a multiple"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: must be in [0, 1), got {dropout}")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.width = width
        self.dropout = dropout
        self.checkpoint_activations = False

        def new_position() -> Position:
            return position(
                num_heads=num_heads,
                head_dim=width // num_heads,
                width=width,
                context_length=context_length,
            )

        self.mask = mask(context_length=context_length)
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = new_position()
        self.blocks = nn.ModuleList(
            block(
                width=width,
                mixer=mixer(width=width, num_heads=num_heads, dropout=dropout),
                mlp=mlp(width, dropout=dropout),
                norm=norm,
            )
            for _ in range(num_layers)
        )
        # Layers after the first: their own instance where the scheme is not shared.
        self.layer_positions = nn.ModuleList(
            () if self.position.shared else (new_position() for _ in range(num_layers - 1))
        )
        self.norm = norm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        initialise(self, width=width, num_layers=num_layers)
        if tie_embeddings:
            self.head.weight = self.embedding.weight

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the position scheme is defined for; None: any."""
        return self.position.max_length

    def layers(self) -> list[tuple[nn.Module, Position]]:
        """Each block with the position scheme that acts in it."""
        own = [self.position, *self.layer_positions]
        return [(block, own[i % len(own)]) for i, block in enumerate(self.blocks)]  # type: ignore[misc]

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
        past: Sequence[object] | None = None,
        padding_B: Tensor | None = None,
    ) -> Tensor:
        """What the head reads, (B, T, C): the blocks' output, normalised.

        documents_BT: numbers of the packed documents; attention stays inside each. With a cache
            they cover all that was read so far.
        mask: in place of the model's own (another window at test time, say).
        cache: what earlier calls saw; the T tokens are then the next ones.
        past: instead of a cache and also in training, one object a layer that its mixer reads other
            positions from (zoo/mixers/myopic_past.py).
        padding_B: tokens at the start of each row that only fill it up, so that texts of several
            lengths end together: no text sees them, and positions are counted from behind them.
        """
        mask = self.mask if mask is None else mask
        start, length = (0, 0) if cache is None else (cache.start, cache.length)
        if padding_B is not None:
            end = length + tokens_BT.shape[1]
            place_S = torch.arange(start, end, device=tokens_BT.device)
            mask = mask & documents((place_S >= padding_B[:, None]).long())
        if documents_BT is not None:
            mask = mask & documents(documents_BT[:, start:])
        if cache is not None:
            no_cache_with_gradient()
        x_BTC = self.embedding(tokens_BT)
        if padding_B is None:
            x_BTC = self.position.embed(x_BTC, length)
        else:
            x_BTC = self.position.embed_rows(x_BTC, length - padding_B)
        if self.dropout:
            x_BTC = drop(x_BTC, self.dropout, self.training)
        kept = past if cache is None else cache.layers
        for i, (block, position) in enumerate(self.layers()):
            own = None if kept is None else kept[i]
            if self.checkpoint_activations and self.training:
                x_BTC = checkpoint(block, x_BTC, position, mask, own, use_reentrant=False)  # type: ignore[assignment]
            else:
                x_BTC = block(x_BTC, position, mask, own)
        if cache is not None:
            cache.advance(tokens_BT.shape[1], mask)
        return self.norm(x_BTC)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        mask: Mask | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits of the next token, (B, T, V); see `hidden` for the arguments."""
        hidden_BTC = self.hidden(tokens_BT, documents_BT=documents_BT, mask=mask, cache=cache)
        return self.head(hidden_BTC)

    def loss(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        *,
        weights_BT: Tensor | None = None,
        **options,
    ) -> tuple[Tensor, Tensor]:
        """Next-token loss in nats: its mean, to differentiate, and that of each position, detached.

        A target of -100 does not count. weights_BT weigh the mean. The logits of a large vocabulary
        are never held whole. `options` as in `hidden`.
        """
        hidden_BTC = self.hidden(tokens_BT, **options)
        mean, losses_N = linear_cross_entropy(
            hidden_BTC.flatten(0, 1),
            self.head.weight,
            targets_BT.flatten(),
            weights_N=None if weights_BT is None else weights_BT.flatten(),
        )
        return mean, losses_N.view_as(targets_BT)

    def new_cache(self) -> Cache:
        """An empty cache for decoding."""
        return Cache(len(self.blocks))
