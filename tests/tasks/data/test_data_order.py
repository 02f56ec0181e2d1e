"""A resumed run, or one with other workers or ranks, must see the same windows in the same order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.order import order, window_starts, windows_per_epoch


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 5))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    """Otherwise some windows would be trained on twice and some never."""
    positions = order(seed, np.arange(epoch * size, (epoch + 1) * size), size)
    assert np.array_equal(np.sort(positions), np.arange(size))


def test_an_index_alone_decides():
    """Otherwise a resumed run would go on with other windows."""
    everything = order(3, np.arange(5000), 1237)
    some = np.array([4999, 0, 1236, 1237, 2500])
    assert np.array_equal(order(3, some, 1237), everything[some])
    assert order(3, 1237, 1237) == everything[1237]
    assert np.array_equal(order(3, some.reshape(5, 1), 1237), everything[some].reshape(5, 1))


def plainly(seed: int, index: int, size: int) -> int:
    """`order` again, one index at a time, in Python's integers."""

    def splitmix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    epoch, place = divmod(index, size)
    a = next(a for a in range(1, size + 1) if a * a >= size)
    b = -(-size // a)
    while True:
        left, right = divmod(place, b)
        for k in range(8):
            key = splitmix(splitmix(splitmix(seed) ^ epoch) ^ k)
            if k % 2:
                right = (right + splitmix(left ^ key) % b) % b
            else:
                left = (left + splitmix(right ^ key) % a) % a
        place = left * b + right
        if place < size:
            return place


@pytest.mark.parametrize("size", [1, 2, 10, 97, 1000])
def test_order_is_the_same_on_every_machine(size):
    """Otherwise a checkpoint moved to another machine, or to a new numpy, would see other windows."""
    index = np.arange(0, 3 * size, max(1, size // 20))
    expected = [plainly(2**62 + 5, int(i), size) for i in index]
    assert order(2**62 + 5, index, size).tolist() == expected


def test_seeds_and_epochs_differ():
    size = 500
    first = order(0, np.arange(size), size)
    assert (first == order(1, np.arange(size), size)).mean() < 0.05
    assert (first == order(0, np.arange(size, 2 * size), size)).mean() < 0.05


def test_a_seed_and_an_epoch_are_not_exchangeable():
    """Otherwise seed 1's first epoch would be seed 0's second, and their runs not independent."""
    size = 500
    second_of_seed_0 = order(0, np.arange(size, 2 * size), size)
    assert (second_of_seed_0 == order(1, np.arange(size), size)).mean() < 0.05


@pytest.mark.parametrize("size", [5, 12])
def test_every_place_is_as_likely(size):
    """Otherwise some windows would always be seen early. Chi-squared of place × window counts."""
    seeds = 2000
    counts = np.zeros((size, size))
    for seed in range(seeds):
        counts[np.arange(size), order(seed, np.arange(size), size)] += 1
    expected = seeds / size
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)  # five standard deviations; seeds are fixed


def test_neighbours_are_not_kept_together():
    """Otherwise a batch would be one stretch of text."""
    positions = order(0, np.arange(100_000), 100_000)
    gap = np.abs(np.diff(positions))
    assert np.median(gap) > 20_000  # for random pairs: (1 - sqrt(1/2)) · size = 29,289
    assert abs(np.corrcoef(positions[:-1], positions[1:])[0, 1]) < 0.02


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 50), st.integers(1, 400), st.integers(0, 9))
def test_windows_fit_and_cover(context_length, more, seed):
    """A window past the end would crash training; an uncovered stretch would never be learnt from."""
    tokens = context_length + more
    size = windows_per_epoch(tokens, context_length)
    for epoch in (0, 1, 7):
        starts = window_starts(
            seed, np.arange(epoch * size, (epoch + 1) * size), tokens, context_length
        )
        assert starts.min() >= 0 and starts.max() + context_length + 1 <= tokens
        assert np.array_equal(np.diff(np.sort(starts)), np.full(size - 1, context_length))
        left_out = tokens - 1 - size * context_length
        assert left_out < 2 * context_length
    assert window_starts(seed, np.arange(size), tokens, context_length).min() == 0


def test_later_epochs_cut_elsewhere():
    """Otherwise a small corpus would show the same windows over and over."""
    size = windows_per_epoch(1000, 50)
    grids = {
        int(window_starts(0, np.arange(e * size, (e + 1) * size), 1000, 50).min())
        for e in range(40)
    }
    assert len(grids) > 15


def test_huge_epochs_cost_nothing():
    """A corpus of 10^15 windows starts at once and needs no memory."""
    positions = order(0, np.array([0, 1, 10**15 - 1]), 10**15)
    assert len(set(positions.tolist())) == 3 and (positions < 10**15).all()
