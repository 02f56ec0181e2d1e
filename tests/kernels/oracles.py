"""Independent float64 definitions, row by row in Python: what the kernels' tests compare with.

Nothing here shares code with kernels/. A mask is a predicate sees(b, t, s).
"""

import math

import torch
from torch import Tensor


def attention(q, k, v, sees, *, scale=None, slopes=None, bias=None, q_previous=None, block=None):
    """(out, lse), one softmax per (sample, head, query)."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    scale = 1 / math.sqrt(D) if scale is None else scale
    outs, lses = [], []
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h * G // H], v[b, h * G // H]
            for r in range(T):
                t = S - T + r
                seen = [s for s in range(S) if sees(b, t, s)]
                e = scale * (keys[seen] @ q[b, h, r])
                if q_previous is not None:
                    other = scale * (keys[seen] @ q_previous[b, h, r])
                    own = torch.tensor([s // block == t // block for s in seen])
                    e = torch.where(own, e, other)
                if slopes is not None:
                    e = e - slopes[h] * torch.tensor([abs(t - s) for s in seen], dtype=e.dtype)
                if bias is not None:
                    e = e + bias.expand(B, H, T, S)[b, h, r, seen]
                lse = torch.logsumexp(e, 0)
                outs.append((e - lse).exp() @ values[seen])
                lses.append(lse)
    return torch.stack(outs).view(B, H, T, D), torch.stack(lses).view(B, H, T)


def visible(sees, B: int, T: int, S: int) -> Tensor:
    """Boolean (B, T, S) of a predicate, the queries at the last T positions."""
    rows = [[[sees(b, t, s) for s in range(S)] for t in range(S - T, S)] for b in range(B)]
    return torch.tensor(rows)


def rotation(
    x: Tensor, positions, *, base=10000.0, scale_base=None, sign=1, centre=0.0, half=False
):
    """RoPE or xPos pair by pair: x (..., T, D) at these positions."""
    D = x.shape[-1]
    columns: list[Tensor] = [x[..., 0]] * D
    for i in range(D // 2):
        one, two = (i, i + D // 2) if half else (2 * i, 2 * i + 1)
        angle = torch.tensor([n * base ** (-2 * i / D) for n in positions], dtype=torch.float64)
        zeta = (2 * i + 0.4 * D) / (1.4 * D)
        exponent = [
            0.0 if scale_base is None else sign * (n - centre) / scale_base for n in positions
        ]
        size = torch.tensor([zeta**e for e in exponent], dtype=torch.float64)
        a, b = x[..., one], x[..., two]
        columns[one] = (a * angle.cos() - b * angle.sin()) * size
        columns[two] = (b * angle.cos() + a * angle.sin()) * size
    return torch.stack(columns, dim=-1)


def momentum(v, eta, state=None, documents=None):
    """The recurrence m_{t+1} = eta (m_t + v_t), one token at a time; eta (H,)."""
    B, H, T, D = v.shape
    m = torch.zeros(B, H, D, dtype=v.dtype) if state is None else state
    rows = []
    for t in range(T):
        if documents is not None and t > 0:
            ids = documents.expand(B, T)
            fresh = (ids[:, t] != ids[:, t - 1])[:, None, None]
            m = torch.where(fresh, torch.zeros_like(m), m)
        rows.append(m)
        m = eta[:, None] * (m + v[:, :, t])
    return torch.stack(rows, dim=2), m
