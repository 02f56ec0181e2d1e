"""The specification of momentum: a strictly causal geometric sum of the values.

    m_t = sum_{i < t} eta^(t - i) v_i + eta^t m_0        i in t's own document, m_0 the state given
    m_{t+1} = eta (m_t + v_t)                            (decoding)

A position whose document differs from its predecessor's starts from m = 0. The first position
continues the state. The state returned is m_T, what position T would see in the same document.

Shapes: v, m (B, H, T, D), eta scalar or (H,), state (B, H, D), documents (T,) or (B, T).
"""

from __future__ import annotations

import torch
from torch import Tensor


def momentum(
    v_BHTD: Tensor,
    eta: Tensor | float,
    *,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(m (B, H, T, D), state (B, H, D)), by the dense (T, T) matrix."""
    H, T = v_BHTD.shape[1:3]
    v = v_BHTD.to(torch.promote_types(v_BHTD.dtype, torch.float32))
    eta = torch.as_tensor(eta, dtype=v.dtype, device=v.device).expand(H)[:, None, None]
    run = document_numbers(documents, T, v.device)  # (1 or B, T)
    t = torch.arange(T + 1, device=v.device)[:, None]  # row T is the state returned
    i = t[:-1, 0]
    run_of_row = torch.cat([run, run[:, -1:]], dim=1)
    seen = (i < t) & (run_of_row[:, :, None] == run[:, None, :])  # (1 or B, T + 1, T)
    powers = eta ** (t - i).clamp(min=1) * seen[:, None]
    m = powers @ v
    if state is not None:
        first = (run_of_row == 0)[:, None, :, None]
        m = m + eta**t * first * state.to(v.dtype)[:, :, None]
    return m[:, :, :T].to(v_BHTD.dtype), m[:, :, T]


def document_numbers(documents: Tensor | None, T: int, device: torch.device) -> Tensor:
    """(1 or B, T): 0 in the first run of equal ids, 1 in the next, ..."""
    if documents is None:
        return torch.zeros(1, T, dtype=torch.long, device=device)
    ids = documents.reshape(-1, documents.shape[-1])
    if ids.shape[1] != T:
        raise ValueError(f"momentum: documents cover {ids.shape[1]} positions, v has {T}")
    starts = torch.nn.functional.pad(ids[:, 1:] != ids[:, :-1], (1, 0))
    return starts.cumsum(1).to(device)
