"""Next-token loss from hidden states and the output matrix, without (tokens x vocabulary) logits.

For each chunk of tokens: logits z, p = softmax(z), the log-sum-exp as max z - log max p (one pass each,
and it cannot underflow), then p minus one-hot in place, and from it this chunk's part of every
gradient, all in the forward pass. The next chunk overwrites the logits, so memory is O(chunk * V) and
the three matmuls are those of the plain form; the backward only scales by the incoming gradient. That
works because the per-token weights are known in the forward: the differentiable result is their (mean
or sum) reduction, and the per-token losses come detached.

Small vocabularies take the plain form, which is faster there. Formulas and shapes: `reference.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.cross_entropy import reference
from kernels.cross_entropy.reference import token_weights

PLAIN_LOGITS = 2**21  # with fewer than this the plain form is the faster one
CHUNK_LOGITS = {"cpu": 2**21}  # logits held at a time: 8 MiB in float32, which stay in the cache
CHUNK_LOGITS_ELSEWHERE = 2**26  # a GPU needs tall matmuls
IMPLS = ("auto", "reference", "chunked")


def linear_cross_entropy(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    *,
    bias: Tensor | None = None,
    weights_N: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk: int | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(loss (), losses (N,)) in nats: the weighted reduction, differentiable in hidden, weight and
    bias, and the per-token losses, detached, unweighted, 0 where the target is ignore_index.

    weights: (N,) per-token weights, constants. reduction: "mean" divides by the sum of the weights
    (NaN where that is 0), "sum" does not. chunk: tokens whose logits are held at a time. Under
    autocast the matmuls run in its dtype, everything after them in float32.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if hidden_NC.dim() != 2 or hidden_NC.shape[:1] != targets_N.shape:
        raise ValueError(
            f"linear_cross_entropy needs hidden (N, C) and targets (N,), got "
            f"{tuple(hidden_NC.shape)} and {tuple(targets_N.shape)}"
        )
    N, V = targets_N.shape[0], weight_VC.shape[0]
    if impl == "reference" or (impl == "auto" and chunk is None and N * V < PLAIN_LOGITS):
        return reference.linear_cross_entropy(
            hidden_NC,
            weight_VC,
            targets_N,
            bias=bias,
            weights_N=weights_N,
            ignore_index=ignore_index,
            reduction=reduction,
        )
    device = hidden_NC.device.type
    if chunk is None:
        chunk = max(1, CHUNK_LOGITS.get(device, CHUNK_LOGITS_ELSEWHERE) // V)
    autocast = torch.is_autocast_enabled(device)
    compute = torch.get_autocast_dtype(device) if autocast else hidden_NC.dtype
    exact = torch.promote_types(hidden_NC.dtype, torch.float32)
    weights = token_weights(targets_N, weights_N, ignore_index, exact)
    ignored = targets_N == ignore_index
    grad = torch.is_grad_enabled()
    loss, losses, *_ = _chunked(
        hidden_NC,
        weight_VC,
        bias,
        targets_N.masked_fill(ignored, 0),
        weights,
        chunk,
        compute,
        grad and hidden_NC.requires_grad,
        grad and weight_VC.requires_grad,
    )
    # Dividing here keeps the gradients inside near 1: half precision would lose those of 1 / N.
    loss = loss / weights.sum() if reduction == "mean" else loss
    return loss, losses.masked_fill(ignored, 0.0)


@torch.library.custom_op("transformer_zoo::linear_cross_entropy", mutates_args=())
def _chunked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    chunk: int,
    compute: torch.dtype,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, losses, grad_hidden, grad_weight, grad_bias); gradients that are not needed are empty.

    loss: the sum of losses times weights.
    """
    N, V, exact = hidden.shape[0], weight.shape[0], weights.dtype
    losses = weights.new_empty(N)
    grad_hidden = hidden.new_empty(hidden.shape if need_hidden else 0)
    grad_weight = weights.new_zeros(weight.shape if need_weight else 0)
    grad_bias = weights.new_zeros(bias.shape if bias is not None else 0)
    rows = min(chunk, N)
    logits = hidden.new_empty(rows, V, dtype=compute)
    minus = weights.new_full((rows, 1), -1.0)
    with torch.autocast(hidden.device.type, enabled=False):
        matrix = weight.to(compute)
        for a in range(0, N, chunk):
            part = slice(a, a + chunk)
            x, y, w = hidden[part].to(compute), targets[part, None], weights[part, None]
            n = x.shape[0]
            z = torch.mm(x, matrix.T, out=logits[:n]).to(exact)
            if bias is not None:
                z += bias
            hit, top = z.gather(1, y), z.amax(1, keepdim=True)
            p = torch.softmax(z, 1, out=z)  # each row is read before it is written
            losses[part] = (top - p.amax(1, keepdim=True).log() - hit).squeeze(1)
            if not (need_hidden or need_weight or bias is not None):
                continue
            p.scatter_add_(1, y, minus[:n])  # softmax - one-hot
            if bias is not None:
                grad_bias += (p * w).sum(0)
            p = p.to(compute)
            if need_hidden:
                grad_hidden[part] = (p @ matrix) * w
            if need_weight and compute == exact:
                grad_weight.addmm_(p.T, x * w)
            elif need_weight:
                grad_weight += p.T @ (x * w).to(compute)
        loss = (losses * weights).sum()
    return (
        loss,
        losses,
        grad_hidden,
        grad_weight.to(weight.dtype),
        grad_bias if bias is None else grad_bias.to(bias.dtype),
    )


@_chunked.register_fake
def _(hidden, weight, bias, targets, weights, chunk, compute, need_hidden, need_weight):
    return (
        weights.new_empty(()),
        weights.new_empty(hidden.shape[0]),
        hidden.new_empty(hidden.shape if need_hidden else 0),
        weight.new_empty(weight.shape if need_weight else 0),
        weights.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*output[2:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.has_bias = inputs[2] is not None


def _backward(ctx, grad, *_):
    grads = [
        None if grad is None or not x.numel() else grad.to(x.dtype) * x for x in ctx.saved_tensors
    ]
    return *grads[:2], grads[2] if ctx.has_bias else None, *[None] * 6


_chunked.register_autograd(_backward, setup_context=_setup)
