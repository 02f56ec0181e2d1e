"""Myopic attention: the forward of softmax attention, and a gradient that knows no later position.

Wu, Morris and Levine 2024, *Do Language Models Plan Ahead for Future Tokens?*, arXiv 2404.00859. In the
loss of position i, what other positions computed is a constant. There are two readings of "what they
computed", and they lead to different results (tasks/myopia/README.md):

    hidden   the hidden states u_j are detached and W_K, W_V stay live: the paper's own training.
             dW_K = sum_j u_j x dK_j (all queries),   du_j = W_Q' dq_j + W_K' dk_j + W_V' dv_j
    kv       the keys and values are detached: W_K, W_V too learn only from a position's own query

with dK, dV the ordinary gradients of keys and values and dk, dv the part that comes from position j
itself (myopic_gradient.py). `beta` lets a share of the rest through: 0 is myopic, 1 vanilla. Two more
variants replace the past, so their forward is another one:

    frozen   others' keys and values are those of a frozen model, given as `past` (myopic_past.py):
             what a position gains when it need not serve the future ("local myopia")
    zero     others' keys and values are zeros: a position sees itself alone ("transformer bigram")

Shapes: B batch, T tokens, C width, H query heads, G key heads, D = C / H.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from kernels.attention import reference
from kernels.attention.masks import Mask
from kernels.attention.op import attention
from kernels.attention.reference import grouped
from kernels.myopic.op import myopic_attention
from zoo.cache import LayerCache
from zoo.mixers.myopic_gradient import dot, own_position, read_by_others, written_by_owner
from zoo.mixers.myopic_past import Past
from zoo.mixers.softmax import SoftmaxAttention
from zoo.positions.base import Position

VARIANTS = ("hidden", "kv", "frozen", "zero")
SHORT = 256  # up to here a CPU is faster without the tiles of kernels/myopic


class MyopicAttention(SoftmaxAttention):
    """SoftmaxAttention, weight for weight; without gradient `hidden` and `kv` are that very class.

    Memory stays O(T) as the vanilla mixer's does, save where it holds T x T scores itself: under a
    dense position bias, and with attention dropout.
    """

    def __init__(
        self,
        *,
        variant: Literal["hidden", "kv", "frozen", "zero"] = "hidden",
        beta: float = 0.0,
        **softmax: Any,
    ):
        super().__init__(**softmax)
        if variant not in VARIANTS:
            raise ValueError(f"variant: must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: must be in [0, 1], 0 myopic and 1 vanilla, got {beta}")
        if beta and variant in ("frozen", "zero"):
            raise ValueError(f"beta: must be 0 with variant={variant}, which has a past of its own")
        self.variant = variant
        self.beta = beta

    def forward(
        self,
        x_BTC: Tensor,
        position: Position,
        mask: Mask,
        cache: LayerCache | Past | None = None,
    ) -> Tensor:
        if self.variant != "hidden" or self.beta == 1 or not torch.is_grad_enabled():
            return super().forward(x_BTC, position, mask, cache)  # type: ignore[arg-type]
        H, G, D = self.num_heads, self.num_kv_heads, self.head_dim
        qkv, handle = read_by_others(
            x_BTC, self.qkv.weight, self.qkv.bias, own_width=2 * G * D, beta=self.beta
        )
        q, k, v = qkv.unflatten(-1, (-1, D)).transpose(1, 2).split((H, G, G), dim=1)
        handles = handle.unflatten(-1, (-1, D)).transpose(1, 2).split((G, G), dim=1)
        return self.output(self._mix_with_own(q, k, v, handles, position, mask))

    def mix(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        position: Position,
        mask: Mask,
        cache: Any,
    ) -> Tensor:
        q, k, v = q_BHTD, k_BGTD, v_BGTD
        if self.variant in ("frozen", "zero"):
            return self._mix_with_past(q, k, v, position, mask, cache)
        if self.variant == "hidden" or self.beta == 1 or not torch.is_grad_enabled():
            return super().mix(q, k, v, position, mask, cache)
        if not (_short(q) or self.beta or self._drops):
            bias = position.bias(q.shape[2], k.shape[2], device=q.device)
            rotated, turned, q_previous = position.rotate(q, k, block=mask.block)
            if bias is None and q_previous is None:
                slopes, scale = position.slopes(), 1 / math.sqrt(self.head_dim)
                return myopic_attention(rotated, turned, v, mask, slopes=slopes, scale=scale)
        k, k_handle = written_by_owner(k, beta=self.beta)
        v, v_handle = written_by_owner(v, beta=self.beta)
        return self._mix_with_own(q, k, v, (k_handle, v_handle), position, mask)

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _mix_with_own(self, q, k, v, handles, position: Position, mask: Mask) -> Tensor:
        """(B, H, T, D): vanilla attention, its own-position gradient sent to the handles of k and v."""
        k_handle, v_handle = handles
        q, k, q_previous = position.rotate(q, k, block=mask.block)
        # Rotation is linear: turning the handle turns its gradient back.
        _, k_handle, _ = position.rotate(q.detach()[:, :1], k_handle, block=mask.block)
        if torch.is_autocast_enabled(q.device.type):
            dtype = torch.get_autocast_dtype(q.device.type)
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        T = q.shape[2]
        slopes, bias = position.slopes(), position.bias(T, T, device=q.device)
        scores: dict[str, Any] = dict(slopes=slopes, bias=bias, q_previous_BHTD=q_previous)
        scale = 1 / math.sqrt(self.head_dim)  # torch's own default, to the bit
        dense = bias is not None or (slopes is not None and slopes.requires_grad)
        if self._drops:
            weights = reference.scores(q, k, mask, **scores).softmax(-1)
            p = weights.detach().diagonal(dim1=-2, dim2=-1)
            weights = torch.nn.functional.dropout(weights, self.dropout)
            kept = weights.detach().diagonal(dim1=-2, dim2=-1)
            out = weights.to(v.dtype) @ grouped(v, self.num_heads)
        else:
            if dense:
                out = attention(q, k, v, mask, **scores)
                with torch.no_grad():
                    lse = reference.scores(q, k, mask, **scores).logsumexp(-1)
            else:
                out, lse = attention(q, k, v, mask, return_lse=True, **scores)
            with torch.no_grad():
                p = dot(q, k).mul_(scale)
                if bias is not None:
                    p += bias.diagonal(dim1=-2, dim2=-1)
                p = p.sub_(lse).exp_()
            kept = None
        handles = (k_handle, v_handle)
        return own_position(out, q, k, v, handles, p_BHT=p, kept_BHT=kept, scale=scale)

    def _mix_with_past(self, q, k, v, position: Position, mask: Mask, cache: Any) -> Tensor:
        """(B, H, T, D): attention to another past, and to the position itself."""
        start = 0
        if self.variant == "frozen":
            if not isinstance(cache, Past):
                raise ValueError(
                    "variant=frozen attends to the states of a frozen model: train it with "
                    "task=myopia task.frozen=RUN_FOLDER, or give past=past_states(frozen, tokens)"
                )
            if cache.k_BGTD.shape != k.shape:
                raise ValueError(
                    f"variant=frozen: the past is shaped {tuple(cache.k_BGTD.shape)}, this model's "
                    f"keys {tuple(k.shape)}; freeze a model of the same shape"
                )
            _, past_k, _ = position.rotate(q.detach()[:, :1], cache.k_BGTD, block=mask.block)
            past = (past_k, cache.v_BGTD)
        else:
            if cache is not None:
                k, v = cache.extend(k, v)
                start = cache.start
            past = (torch.zeros_like(k), torch.zeros_like(v))
        q, k, q_previous = position.rotate(q, k, block=mask.block)
        return myopic_attention(
            q,
            k,
            v,
            mask,
            past=past,
            slopes=position.slopes(),
            bias=position.bias(q.shape[2], k.shape[2], start=start, device=q.device),
            q_previous_BHTD=q_previous,
            dropout=self.dropout if self._drops else 0.0,
            impl="reference" if _short(q) else "auto",
        )


def _short(q_BHTD: Tensor) -> bool:
    return q_BHTD.device.type == "cpu" and q_BHTD.shape[2] <= SHORT
