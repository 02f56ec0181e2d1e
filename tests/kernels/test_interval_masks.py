"""Masks: every composition shows each query exactly the keys that its definition says."""

import math

import pytest
import torch
from oracles import visible

from kernels.attention.masks import (
    Mask,
    blockwise_causal,
    causal,
    documents,
    full,
    prefix,
    sliding_window,
)
from kernels.attention.pieces import cut

IDS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 3], [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6]])


def same_document(b, t, s):
    a, c = min(t, s), max(t, s)
    return bool((IDS[b, a : c + 1] == IDS[b, a]).all())


SEEN = {
    "full": (full(), lambda b, t, s: True),
    "causal": (causal(), lambda b, t, s: s <= t),
    "window 3": (sliding_window(3), lambda b, t, s: t - 3 < s <= t),
    "window 1": (sliding_window(1), lambda b, t, s: s == t),
    "block 2": (blockwise_causal(2), lambda b, t, s: s <= t and s // 2 >= t // 2 - 1),
    "block 5": (blockwise_causal(5), lambda b, t, s: s <= t and s // 5 >= t // 5 - 1),
    "prefix": (prefix([4, 7]), lambda b, t, s: s <= t or (t < (4, 7)[b] and s < (4, 7)[b])),
    "prefix for all": (prefix(5), lambda b, t, s: s <= t or (t < 5 and s < 5)),
    "documents": (documents(IDS), same_document),
}


@pytest.mark.parametrize("T", [12, 5, 1])
@pytest.mark.parametrize("first", SEEN)
@pytest.mark.parametrize("second", SEEN)
def test_every_pair_of_masks_intersects_as_sets(first, second, T):
    """A packed, windowed, blockwise or prefix model would otherwise see the wrong tokens."""
    (a, sees_a), (b, sees_b) = SEEN[first], SEEN[second]
    expected = visible(lambda n, t, s: sees_a(n, t, s) and sees_b(n, t, s), 2, T, 12)
    assert torch.equal((a & b).dense(T, 12).expand(2, T, 12), expected)


@pytest.mark.parametrize("T", [12, 5, 1])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("first", SEEN)
@pytest.mark.parametrize("second", SEEN)
def test_pieces_cover_each_visible_pair_once(first, second, local, T):
    """A pair counted twice or dropped is a wrong softmax on the CPU."""
    mask = SEEN[first][0] & SEEN[second][0]
    dense = mask.dense(T, 12).expand(2, T, 12)
    count = torch.zeros(2, T, 12, dtype=torch.long)
    covered = torch.zeros(2, T, dtype=torch.bool)
    for piece in cut(mask, T, 12, local=local):
        samples = slice(None) if piece.batch is None else slice(piece.batch, piece.batch + 1)
        for i in range(piece.count):
            rows = slice(piece.query + i * piece.step, piece.query + i * piece.step + piece.rows)
            keys = slice(piece.key + i * piece.step, piece.key + i * piece.step + piece.keys)
            shown = torch.ones(piece.rows, piece.keys, dtype=torch.bool)
            shown = {
                "all": shown,
                "causal": shown.tril(),
                "after": shown.triu(),
                "masked": dense[samples, rows, keys],
            }[piece.kind]
            count[samples, rows, keys] += shown.long()
            assert bool(covered[samples, rows].all()) == piece.adds
            covered[samples, rows] = True
    assert torch.equal(count, dense.long())
    assert covered.all()


def test_the_papers_blockwise_mask():
    """LeX figure 3, block 2: rows see their own block causally and all of the one before."""
    drawn = """1......... 11........ 111....... 1111...... ..111..... ..1111....
               ....111... ....1111.. ......111. ......1111"""
    expected = torch.tensor([[c == "1" for c in row] for row in drawn.split()])
    assert torch.equal(blockwise_causal(2).dense(10), expected)


@pytest.mark.parametrize("name", SEEN)
def test_what_a_cache_may_drop(name):
    """Dropping a key that a later query sees, or keeping all of them, breaks long generation."""
    mask = SEEN[name][0]
    dense = mask.dense(12).expand(2, 12, 12)
    for t in range(12):
        seen = dense[:, t:].any(0).any(0).nonzero()
        assert mask.first_needed(t) == int(seen.min())


def test_bounds_never_decrease():
    """Whole tiles are skipped by the first and last row of a tile alone."""
    for name, (mask, _) in SEEN.items():
        lo, hi = mask.bounds(12)
        assert (lo.diff() >= 0).all() and (hi.diff() >= 0).all(), name
        assert (lo <= torch.arange(12)).all() and (hi > torch.arange(12)).all(), name


def test_period_is_what_the_origin_may_move_by():
    """A cache that drops keys by another amount turns the mask into a different one."""
    assert causal().period == sliding_window(5).period == full().period == 1
    mask = blockwise_causal(4) & blockwise_causal(6) & sliding_window(9)
    assert mask.period == math.lcm(4, 6)
    early, late = mask.dense(20, 40), mask.dense(20, 52)
    assert torch.equal(early[:, -15:], late[:, -15:])
    assert not torch.equal(early[:, -15:], mask.dense(20, 41)[:, -15:])
    assert prefix(3).period is None and (causal() & documents(IDS)).period is None


@pytest.mark.parametrize("T", [12, 5])
def test_a_blockwise_mask_by_blocks(T):
    """Window-local queries use each pair once: with the own block's query or the previous one's."""
    t, s = torch.arange(12 - T, 12)[:, None], torch.arange(12)
    for other in (full(), sliding_window(6), documents(IDS), documents(IDS[0]), prefix([4, 7])):
        mask = blockwise_causal(4) & other
        whole = mask.dense(T, 12).expand(2, T, 12)
        own, before = (part.dense(T, 12).expand(2, T, 12) for part in mask.by_block(12))
        assert torch.equal(own, whole & (t // 4 == s // 4))
        assert torch.equal(before, whole & (t // 4 != s // 4))


def test_structure_that_dispatch_reads():
    """The fast paths are chosen by these, so a mask that hides its structure is a slow one."""
    assert causal().is_plain_causal and not sliding_window(2).is_plain_causal
    assert (sliding_window(9) & sliding_window(4)).window == 4
    assert (blockwise_causal(4) & blockwise_causal(8)).block == 4  # the multiple adds nothing
    assert (blockwise_causal(4) & blockwise_causal(6)).block is None
    assert (causal() & prefix(3)).is_plain_causal
    assert blockwise_causal(8).within(16).is_plain_causal
    assert sliding_window(16).within(16).is_plain_causal
    assert blockwise_causal(8).within(17) == blockwise_causal(8)
    assert (causal() & documents(IDS)).batch == 2 and causal().batch is None
    assert causal() == Mask(is_causal=True) and documents(IDS) == documents(IDS.clone())
    assert documents(IDS) != documents(IDS + torch.eye(2, 12, dtype=torch.long))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: sliding_window(0), "sliding_window: window must be an integer of at least 1"),
        (lambda: blockwise_causal(2.0), "blockwise_causal: block must be an integer"),
        (lambda: prefix(torch.tensor([1.5])), "prefix: lengths must be"),
        (lambda: documents(torch.zeros(2, 2, 2).long()), "documents: ids must be integers"),
        (lambda: causal().bounds(5, 3), "5 queries but 3 keys"),
        (lambda: documents(IDS).bounds(13), "ids cover 12 positions, the keys have 13"),
        (lambda: documents(IDS).first_needed(12), "query 12 is past them"),
        (lambda: documents(IDS) & documents(IDS[:, :3]), "12 and 3 positions"),
    ],
)
def test_bad_input_is_named(build, says):
    with pytest.raises(ValueError, match=says):
        build()
