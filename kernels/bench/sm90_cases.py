"""Every Triton kernel's launches at its default configuration, one case a form that users reach.

`python -m kernels.bench.sm90_cases` compiles them for sm_90 and prints what came out as JSON: a program
of its own, because TRITON_INTERPRET must be unset when kernels are imported. Each case is a function of
the head size and the dtype that calls launchers on CPU tensors; see sm90.launches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch

from kernels.attention import triton as forwards
from kernels.attention import triton_backward, triton_blocks
from kernels.attention.masks import (
    blockwise_causal,
    causal,
    documents,
    prefix,
    sliding_window,
)
from kernels.bench.sm90 import compiled, launches
from kernels.momentum import triton as momentum
from kernels.myopic import triton as myopic
from kernels.xpos import triton as xpos

B, T, H, G = 2, 1024, 4, 2
IDS = torch.arange(T).repeat(B, 1) // 300
MASKS = {
    "causal": causal(),
    "window": sliding_window(256),
    "blockwise": blockwise_causal(256),
    "packed": causal() & documents(IDS),
    "prefix": prefix([100, 300]),
    "packed blocks": blockwise_causal(256) & documents(IDS),
}


def heads(n: int, D: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(B, T, n, D, dtype=dtype).transpose(1, 2)


def attention(D, dtype, mask, *, slopes=False, previous=False, rotary=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    steep = torch.empty(H) if slopes else None
    tables = (torch.empty(T, D // 2, 2),) * 2 if rotary else ()
    forwards.forward(
        q, k, v, MASKS[mask], 0.1, steep, q.clone() if previous else None, factors=tables
    )


def backward(D, dtype, mask, *, slopes=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    rows = triton_backward.row_sums(q, torch.empty(B, H, T), q, None)
    saved = (q, q, k, v, rows, MASKS[mask], 0.1, torch.empty(H) if slopes else None)
    if MASKS[mask].is_plain_blockwise:
        triton_blocks.by_blocks(*saved, None)
    triton_backward.by_keys(*saved)
    triton_backward.by_queries(*saved)


def blocks(D, dtype, *, previous=False, slopes=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    rows = torch.empty(2, B, H, T + 128)
    steep = torch.empty(H) if slopes else None
    saved = (q, q, k, v, rows, MASKS["blockwise"], 0.1, steep)
    triton_blocks.by_blocks(*saved, q.clone() if previous else None)


def shortsighted(D, dtype, mask, *, frozen=False, groups=H):
    q, k, v = heads(H, D, dtype), heads(groups, D, dtype), heads(groups, D, dtype)
    past = (k.clone(), v.clone()) if frozen else None
    lse = torch.empty(B, H, T)
    if frozen:
        forwards.forward(q, k, v, MASKS[mask], 0.1, own=past)
    myopic.backward(q, q, lse, q, k, v, past, MASKS[mask], 0.1, None)


def sums(D, dtype, *, packed=False, reverse=False, halo=None):
    v, eta, state = heads(H, D, dtype), torch.empty(H), torch.empty(B, H, D)
    runs = torch.empty(B, T, dtype=torch.int32) if packed else None
    momentum.scan(v, eta, state, runs, gain=not reverse, reverse=reverse, halo=halo)


def turned(D, dtype, layout):
    table = torch.empty(T, D // 2, 2)
    xpos.rotate(heads(H, D, dtype), heads(G, D, dtype), table, table, layout, False)


Case = Callable[[int, torch.dtype], None]
CASES: dict[str, Case] = {
    "forward, causal": lambda D, t: attention(D, t, "causal"),
    "forward, packed": lambda D, t: attention(D, t, "packed"),
    "forward, window-local rotary": lambda D, t: attention(D, t, "blockwise", rotary=True),
    "backward, packed": lambda D, t: backward(D, t, "packed"),
    "backward, blocks": lambda D, t: blocks(D, t, previous=True),
    "myopic, causal": lambda D, t: shortsighted(D, t, "causal"),
    "myopic, frozen past": lambda D, t: shortsighted(D, t, "packed", frozen=True),
    "momentum, carried": lambda D, t: sums(D, t, packed=True),
    "momentum, rebuilt": lambda D, t: sums(D, t, halo=256),
    "rotation": lambda D, t: turned(D, t, "interleaved"),
}


def main() -> None:
    found = []
    for D in (64, 128):
        for name, case in CASES.items():
            for launch in launches(partial(case, D, torch.bfloat16)):
                found.append({"case": name, "D": D} | asdict(compiled(launch)))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
