"""Myopic attention: ordinary forward, and a backward that gives keys and values only their own
position's gradient. Definition and shapes: `reference.py`.

Each row of every gradient has one owner, so the backward walks the forward's loop once, with three
matmuls a tile (S, dP, dQ) where the ordinary backward has five, and no second pass over the keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.attention import cpu
from kernels.attention.masks import Mask, causal
from kernels.myopic import reference

IMPLS = ("auto", "reference", "triton")
ROWS = 256  # query rows whose scores are held at a time
