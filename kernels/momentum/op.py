"""Strictly causal geometric sums of values, m_{t+1} = eta (m_t + v_t), and their gradients.

Definition, documents and shapes: `reference.py`. The gradient is the same recurrence with time
reversed: with r_t the total gradient of m_t,

    r_t = g_t + eta r_{t+1}        dL/dv_t = eta r_{t+1}        dL/deta = sum_t r_{t+1} . (m_t + v_t)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.dispatch import use_triton
from kernels.momentum import reference
from kernels.momentum.scan import scan

IMPLS = ("auto", "reference", "triton")


def momentum(
    v_BHTD: Tensor,
    eta: Tensor | float,
    *,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(m (B, H, T, D) in v's dtype, state (B, H, D) in float32 or wider).

    eta: number, or tensor () or (H,), in [0, 1); may require grad, as may v and state. documents:
    (T,) or (B, T) ids; m starts from 0 where the id changes. state: what an earlier call returned.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    B, H, T, D = v_BHTD.shape
    if isinstance(eta, Tensor) and eta.numel() not in (1, H):
        raise ValueError(f"momentum: eta must be a number or one per head ({H}), got {eta.shape}")
    if state is not None and state.shape != (B, H, D):
        raise ValueError(f"momentum: state must be {(B, H, D)}, got {tuple(state.shape)}")
    if impl == "reference":
        return reference.momentum(v_BHTD, eta, state=state, documents=documents)
    exact = torch.promote_types(v_BHTD.dtype, torch.float32)
    number = None if isinstance(eta, Tensor) else float(eta)  # a tensor may live on the device
    if number is None:
        eta = torch.as_tensor(eta, dtype=exact, device=v_BHTD.device).reshape(-1)
    else:  # filled in place: copying a number to a GPU would wait for it
        eta = v_BHTD.new_full((1,), number, dtype=exact)
    state = v_BHTD.new_zeros(B, H, D, dtype=exact) if state is None else state.to(exact)
    if use_triton("momentum", impl, v_BHTD):
        from kernels.momentum import triton

        halo = triton.halo_for(number, v_BHTD.dtype) if number is not None else None
        runs = None
        if documents is not None:
            runs = reference.document_numbers(documents, T, v_BHTD.device).int()
        return triton.momentum(v_BHTD, eta, state, runs, halo)
    kept = None
    if documents is not None:
        run = reference.document_numbers(documents, T, v_BHTD.device)
        kept = F.pad(run[:, 1:] == run[:, :-1], (1, 0), value=True)
    return _momentum(v_BHTD, eta, state, kept)


@torch.library.custom_op("transformer_zoo::momentum", mutates_args=())
def _momentum(v: Tensor, eta: Tensor, state: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """eta (1,) or (H,), kept (1 or B, T): False where a document starts."""
    x = v.to(state.dtype)
    m = torch.empty_like(x)
    following = scan(x, _factors(eta, kept), eta[:, None, None], state, m)
    if kept is not None:
        m *= kept[:, None, :, None]
    return m.to(v.dtype), following


@torch.library.custom_op("transformer_zoo::momentum_backward", mutates_args=())
def _momentum_backward(
    grad_m: Tensor,
    grad_following: Tensor,
    v: Tensor,
    m: Tensor,
    eta: Tensor,
    kept: Tensor | None,
    need_eta: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v, eta (zeros unless needed) and state."""
    g = grad_m.to(eta.dtype)
    if kept is not None:
        g = g * kept[:, None, :, None]
    r = torch.empty_like(g)  # r_{t+1} at t
    grad_state = scan(g, _factors(eta, kept), None, grad_following, r, reverse=True)
    grad_eta = torch.zeros_like(eta)
    if need_eta:
        per_head = (r * (m + v)).sum((0, 2, 3))
        grad_eta = per_head if eta.numel() > 1 else per_head.sum(0, keepdim=True)
    return r.mul_(eta[:, None, None]).to(v.dtype), grad_eta, grad_state


def _factors(eta: Tensor, kept: Tensor | None) -> Tensor:
    a = eta[None, :, None, None]
    return a if kept is None else a * kept[:, None, :, None]


@_momentum.register_fake
def _(v, eta, state, kept):
    return torch.empty_like(v), torch.empty_like(state)


@_momentum_backward.register_fake
def _(grad_m, grad_following, v, m, eta, kept, need_eta):
    return torch.empty_like(grad_m), torch.empty_like(eta), torch.empty_like(grad_following)


def _setup(ctx, inputs, output):
    v, eta, _, kept = inputs
    need_eta = eta.requires_grad
    ctx.save_for_backward(v if need_eta else None, output[0] if need_eta else None, eta, kept)
    ctx.need_eta = need_eta


def _backward(ctx, grad_m, grad_following):
    v, m, eta, kept = ctx.saved_tensors
    v, m = (grad_m, grad_m) if v is None else (v, m)  # unused, but the operator takes tensors
    grads = _momentum_backward(grad_m, grad_following, v, m, eta, kept, ctx.need_eta)
    return *grads, None


_momentum.register_autograd(_backward, setup_context=_setup)
