"""The order of training windows: a pure function of (seed, global sample index).

    epoch, i = divmod(index, size);   position = permutation_{seed, epoch}(i)

The permutation is never stored. It is a Feistel network on mixed radix: write i = (l, r) with
l < a, r < b, a·b ≥ size, and alternate

    l ← l + F_k(r) mod a,      r ← r + F_k(l) mod b.

Each step can be undone, so the whole is a bijection of a·b values; values ≥ `size` are walked on
along their cycle until they fall inside (rare: a·b exceeds `size` by less than a). It needs no
memory at any size, starts anywhere at once and depends on no random generator's version.
Ref.: Luby & Rackoff 1988; cycle walking: Black & Rogaway 2002. F is splitmix64 (Steele et al. 2014).
"""

import math

import numpy as np

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def order(seed: int, index: np.ndarray | int, size: int) -> np.ndarray:
    """Position in [0, size) of each global sample index; every epoch is one permutation.

    Args:
        index: non-negative integers of any shape.
        size: number of samples in an epoch.
    Returns: int64 of the shape of `index`.
    """
    epoch, place = np.divmod(np.asarray(index, dtype=np.uint64), np.uint64(size))
    a = np.uint64(math.isqrt(size - 1) + 1)
    b = np.uint64(-(-size // int(a)))
    epochs, which = np.unique(epoch, return_inverse=True)
    keys = [mix(seed, epochs, k)[which].reshape(place.shape) for k in range(_ROUNDS)]
    place = _feistel(place, keys, a, b)
    while (outside := place >= size).any():
        place = np.where(outside, _feistel(place, keys, a, b), place)
    return place.astype(np.int64)


def windows_per_epoch(tokens: int, context_length: int) -> int:
    """Windows of `context_length` + 1 tokens that fit wherever the epoch's grid begins."""
    return max(1, (tokens - context_length) // context_length)


def window_starts(seed: int, index: np.ndarray, tokens: int, context_length: int) -> np.ndarray:
    """First token of the training window of each global sample index.

    An epoch visits the windows of a grid, each once, in its own order. The grid of epoch 0 begins
    at token 0, that of each later one at a place of its own in [0, context_length), so that a small
    corpus read many times is not cut at the same places every time.
    Needs tokens > context_length.
    """
    size = windows_per_epoch(tokens, context_length)
    epoch = np.asarray(index, dtype=np.int64) // size
    slack = min(context_length, tokens - size * context_length)
    shift = (mix(seed, epoch, _ROUNDS) % np.uint64(slack)).astype(np.int64)
    return np.where(epoch > 0, shift, 0) + order(seed, index, size) * context_length


def mix(seed: int, *values: np.ndarray | int) -> np.ndarray:
    """64 well-mixed bits (uint64) of a seed and values, elementwise; their order matters."""
    state = _splitmix(np.asarray(seed % 2**64, dtype=np.uint64))
    for value in values:
        state = _splitmix(state ^ np.asarray(value, dtype=np.uint64))
    return state


def _feistel(place: np.ndarray, keys: list[np.ndarray], a: np.uint64, b: np.uint64) -> np.ndarray:
    left, right = np.divmod(place, b)
    for k, key in enumerate(keys):
        if k % 2:
            right = (right + _splitmix(left ^ key) % b) % b
        else:
            left = (left + _splitmix(right ^ key) % a) % a
    return left * b + right


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
