"""Keys that carry a share of the key before them."""

import pytest
import torch

from kernels.attention.masks import Mask, causal, documents, full, sliding_window
from zoo.cache import LayerCache
from zoo.mixers.smeared import SmearedKeys
from zoo.positions.none import NoPosition

WIDTH, HEADS, TIME = 8, 4, 9


def made(groups: int) -> tuple[SmearedKeys, NoPosition, torch.Tensor]:
    torch.manual_seed(0)
    mixer = SmearedKeys(width=WIDTH, num_heads=HEADS, num_kv_heads=groups).double()
    torch.nn.init.normal_(mixer.gate)
    position = NoPosition(num_heads=HEADS, head_dim=2, width=WIDTH, context_length=TIME)
    return mixer, position, torch.randn(2, TIME, WIDTH).double()


def by_hand(mixer: SmearedKeys, x_BTC: torch.Tensor, visible_TT: torch.Tensor) -> torch.Tensor:
    """The formula, a head and a query at a time."""
    q, k, v = mixer.heads(x_BTC)
    share = torch.sigmoid(mixer.gate)
    out = torch.zeros_like(q)
    for h in range(HEADS):
        g = h * mixer.num_kv_heads // HEADS
        smeared = share[g] * k[:, g]
        for t in range(1, TIME):
            if visible_TT[t, t - 1]:
                smeared[:, t] += (1 - share[g]) * k[:, g, t - 1]
        for t in range(TIME):
            keys = visible_TT[t].nonzero()[:, 0]
            scores = torch.einsum("bd,bsd->bs", q[:, h, t], smeared[:, keys]) / mixer.head_dim**0.5
            out[:, h, t] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, g, keys])
    return mixer.project(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_is_the_formula_and_crosses_no_document(groups: int, packed: bool) -> None:
    """A key that carried another document's last key would leak what packing must hide."""
    mixer, position, x_BTC = made(groups)
    mask: Mask = causal()
    if packed:
        mask = mask & documents(torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]).expand(2, -1))
        visible = mask.dense(TIME)[0]
    else:
        visible = mask.dense(TIME)
    found = mixer(x_BTC, position, mask)
    torch.testing.assert_close(found, by_hand(mixer, x_BTC, visible), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [causal(), sliding_window(3)], ids=["causal", "window"])
@pytest.mark.parametrize("chunks", [[1] * TIME, [4, 1, 4]], ids=["one by one", "mixed"])
def test_decoding_equals_the_full_pass(mask: Mask, chunks: list[int]) -> None:
    mixer, position, x_BTC = made(4)
    cache, parts = LayerCache(), []
    for part in x_BTC.split(chunks, dim=1):
        parts.append(mixer(part, position, mask, cache))
    whole = mixer(x_BTC, position, mask)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


def test_an_encoder_may_use_it() -> None:
    """Under a full mask the smear still looks back only, and every position gives a gradient."""
    mixer, position, x_BTC = made(4)
    visible = torch.ones(TIME, TIME, dtype=torch.bool)
    found = mixer(x_BTC, position, full())
    torch.testing.assert_close(found, by_hand(mixer, x_BTC, visible), rtol=0, atol=1e-12)
    found.sum().backward()
    assert mixer.gate.grad is not None and bool((mixer.gate.grad != 0).all())
