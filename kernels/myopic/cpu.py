"""Myopic attention on a CPU: the flash forward, and a backward of three matmuls a tile (S, dP, dQ).

Query rows go 128 or 256 at a time against tiles of KEYS keys inside their interval, a few heads at a time
so that a tile stays in the cache: O(tile) memory. The keys' and values' gradients are row-wise,

    p_i = exp(scale q_i . k_i - lse_i)      dv_i = p_i dO_i
    ds_i = p_i (dO_i . v_i - delta_i)       dk_i = scale ds_i q_i        summed over a key head's queries

The tiles' scores are in base 2, for exp2 costs torch a third of exp. Under a frozen past the diagonal is hidden from the tiles and added from the live k_i, v_i.

Shapes: q, out (B, H, T, D); k, v, past (B, G, S, D); lse (B, H, T). Inside, g key heads at a time
with their r = H / G query heads folded into the rows: (g, r * rows, D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.attention import cpu
from kernels.attention.masks import Mask
from kernels.attention.reference import grouped

LOG2E = 1 / math.log(2)
LONG = 2048  # from here on, wide tiles gain more than they lose at the diagonal
KEYS = 256
TILE = 2**17  # scores held at a time: with dP, 1 MiB in float32


def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Mask,
    past: tuple[Tensor, Tensor] | None,
    scale: float,
    slopes: Tensor | None,
) -> Tensor:
    """out (B, H, T, D). All tensors on the CPU."""
    past_k, past_v = (None, None) if past is None else past
    fields = mask.fields()
    return _myopic(q_BHTD, k_BGSD, v_BGSD, past_k, past_v, slopes, scale, *fields)[0]


@torch.library.custom_op("transformer_zoo::myopic_cpu", mutates_args=())
def _myopic(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(out, lse)."""
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    if past_k is None or past_v is None:
        return cpu.attention(q, k, v, mask, scale=scale, slopes=slopes)
    (B, H, T, _), (G, S) = q.shape, k.shape[1:3]
    out = torch.empty_like(q)
    own_k, own_v = (_fold(_exact(grouped(x, H)[:, :, -T:]), G) for x in (k, v))
    q5, k0, v0 = _fold(_exact(q), G), _exact(past_k), _exact(past_v)
    lse = q5.new_empty(B, G, H // G, T)
    out5 = _fold(out, G)
    own = scale * (q5 * own_k).sum(-1, keepdim=True)
    tiles = _Tiles(mask, T, S, slopes, q5, hide_diagonal=True)
    for b, g, rows in tiles.parts(S):
        # All visible keys at once, and the position's own score as one more column.
        here = (b, g, slice(None), rows)
        ((keys, bias),) = tiles.of(b, g, rows, S)
        e = _scores(scale * q5[here], k0[b, g, keys], bias)
        e = torch.cat([e, own[here]], dim=-1)
        lse[here] = e.logsumexp(-1)
        p = e.softmax(-1)
        o = (p[..., :-1].flatten(1, 2) @ v0[b, g, keys]).view_as(q5[here])
        out5[here] = o + p[..., -1:] * own_v[here]
    return out, lse.flatten(1, 2)


@torch.library.custom_op("transformer_zoo::myopic_cpu_backward", mutates_args=())
def _myopic_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    is_causal: bool,
    window: int | None,
    blocks: list[int],
    lengths: Tensor | None,
    ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    mask = Mask(is_causal, window, tuple(blocks), lengths, ids)
    T = q.shape[2]
    G, S = k.shape[1:3]
    frozen = past_k is not None
    all_k, all_v = _exact(k if past_k is None else past_k), _exact(v if past_v is None else past_v)
    # One more column: the matmuls themselves take lse off the scores and delta off dO . v.
    ones_k, ones_v = _with_ones(all_k), _with_ones(all_v)
    dq, dk, dv = (torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))
    dk[:, :, : S - T] = dv[:, :, : S - T] = 0.0
    q5, grad5, out5, dq5 = (_fold(x, G) for x in (q, grad_out, out, dq))
    lse5 = lse.unflatten(1, (G, -1)).unsqueeze(-1)
    steep = None if slopes is None else LOG2E * slopes
    tiles = _Tiles(mask, T, S, steep, _exact(q5[:, :, :, :0]), hide_diagonal=frozen)
    for b, g, rows in tiles.parts(KEYS):
        here, there = (b, g, slice(None), rows), slice(rows.start + S - T, rows.stop + S - T)
        queries, grads, outs, lses = (_exact(x[here]) for x in (q5, grad5, out5, lse5))
        own_k, own_v = (_exact(x[b, g, None, there]) for x in (k, v))
        delta = (grads * outs).sum(-1, keepdim=True)
        p = (scale * (queries * own_k).sum(-1, keepdim=True) - lses).exp()
        ds = scale * p * ((grads * own_v).sum(-1, keepdim=True) - delta)
        dk[b, g, there] = (ds * queries).sum(1)
        dv[b, g, there] = (p * grads).sum(1)
        queries = torch.cat([queries * (scale * LOG2E), lses * -LOG2E], -1)
        grads = torch.cat([grads, -delta], -1).flatten(1, 2)
        total = None
        for keys, bias in tiles.of(b, g, rows, KEYS):
            weights = _scores(queries, ones_k[b, g, keys], bias).exp2_().flatten(1, 2)
            dp = (grads @ ones_v[b, g, keys].mT).mul_(weights)
            more = all_k[b, g, keys]
            total = dp @ more if total is None else total.baddbmm_(dp, more)
        assert total is not None
        step = total.view_as(outs).mul_(scale)
        dq5[here] = step + ds * own_k if frozen else step
    return dq, dk, dv


class _Tiles:
    """What each run of query rows sees, as slices of keys with the bias that each needs."""

    def __init__(
        self,
        mask: Mask,
        T: int,
        S: int,
        slopes: Tensor | None,
        like_BGrTD: Tensor,
        *,
        hide_diagonal: bool,
    ):
        self.B, self.G, self.r = like_BGrTD.shape[:3]
        self.T, self.S, self.hide_diagonal, self.dtype = T, S, hide_diagonal, like_BGrTD.dtype
        self.slopes = None
        if slopes is not None:
            self.slopes = slopes.to(self.dtype).view(self.G, self.r, 1, 1)
        lo, hi = mask.bounds(T, S)
        self.lo, self.hi = lo.reshape(-1, T), hi.reshape(-1, T)
        self.low, self.high = self.lo.tolist(), self.hi.tolist()
        self.hidden: dict[tuple[int, int, int], Tensor | None] = {}

    def parts(self, width: int):
        """(sample, slice of key heads, slice of query rows), heads so many that a tile fits."""
        count = 128 if self.T < LONG else 256
        for a in range(0, self.T, count):
            rows = slice(a, min(a + count, self.T))
            reach = min(width, self.high[0][rows.stop - 1] - self.low[0][a])
            step = max(1, TILE // (self.r * count * max(reach, 1)))
            self.hidden.clear()
            for b in range(self.B):
                for g in range(0, self.G, step):
                    yield b, slice(g, g + step), rows

    def of(self, b: int, g: slice, rows: slice, width: int) -> list[tuple[slice, Tensor | None]]:
        """The tiles of `width` keys that these rows see, and what to add to their scores."""
        n = b if len(self.low) > 1 else 0
        first, last = self.low[n][rows.start], self.high[n][rows.stop - 1]
        tiles = []
        for a in range(first, last, width):
            keys = slice(a, min(a + width, last))
            bias = self._hidden(n, rows, keys)
            if self.slopes is not None:
                t = torch.arange(rows.start, rows.stop)[:, None] + self.S - self.T
                alibi = -self.slopes[g] * (t - torch.arange(keys.start, keys.stop)).abs()
                bias = alibi if bias is None else alibi + bias
            tiles.append((keys, bias))
        return tiles

    def _hidden(self, n: int, rows: slice, keys: slice) -> Tensor | None:
        """-inf where a row does not see a key, None where every row sees every key."""
        place = (n, rows.start, keys.start)
        if place not in self.hidden:
            t0 = self.S - self.T
            diagonal = keys.start < t0 + rows.stop and t0 + rows.start < keys.stop
            inside = self.low[n][rows.stop - 1] <= keys.start
            inside = inside and self.high[n][rows.start] >= keys.stop
            self.hidden[place] = None
            if not inside or (diagonal and self.hide_diagonal):
                s = torch.arange(keys.start, keys.stop)
                hide = (s < self.lo[n, rows, None]) | (s >= self.hi[n, rows, None])
                if self.hide_diagonal:
                    hide |= s == torch.arange(t0 + rows.start, t0 + rows.stop)[:, None]
                bias = torch.zeros(hide.shape, dtype=self.dtype)
                self.hidden[place] = bias.masked_fill_(hide, -math.inf)
        return self.hidden[place]


def _scores(q_grtD: Tensor, k_gsD: Tensor, bias: Tensor | None) -> Tensor:
    """(g, r, rows, keys)."""
    e = (q_grtD.flatten(1, 2) @ k_gsD.mT).view(*q_grtD.shape[:3], -1)
    return e if bias is None else e.add_(bias)


def _fold(x_BHTD: Tensor, G: int) -> Tensor:
    return x_BHTD.unflatten(1, (G, -1))


def _with_ones(x_BGSD: Tensor) -> Tensor:
    wide = x_BGSD.new_empty(*x_BGSD.shape[:3], x_BGSD.shape[3] + 1)
    wide[..., :-1], wide[..., -1] = x_BGSD, 1.0
    return wide


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@_myopic.register_fake
def _(q, k, v, past_k, *_):
    B, H, T, D = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    if past_k is not None:
        return torch.empty_like(q), q.new_empty(B, H, T, dtype=exact)
    lse = q.new_empty(B, T, H, dtype=exact).transpose(1, 2)
    return q.new_empty(B, T, H, D).transpose(1, 2), lse


@_myopic_backward.register_fake
def _(grad_out, out, lse, q, k, v, *_):
    return tuple(torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))


def _setup(ctx, inputs, output):
    *tensors, ctx.scale, ctx.is_causal, ctx.window, ctx.blocks, lengths, ids = inputs
    ctx.save_for_backward(*output, *tensors, lengths, ids)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out, _):
    *saved, lengths, ids = ctx.saved_tensors
    mask = (ctx.is_causal, ctx.window, ctx.blocks, lengths, ids)
    return *_myopic_backward(grad_out, *saved, ctx.scale, *mask), *[None] * 9


_myopic.register_autograd(_backward, setup_context=_setup)
