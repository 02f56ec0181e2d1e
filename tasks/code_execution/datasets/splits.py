"""Which split a program belongs to: that of its source, or of its source's problem, never its own."""

import hashlib
from collections.abc import Iterable, Mapping

SPLITS = ("train", "val", "test")


def place(name: str, seed: int) -> float:
    """A number in [0, 1) that is drawn by a name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def split_of(name: str, *, seed: int, val: float, test: float) -> str:
    """By the number that the name draws: for sources without end."""
    drawn = place(name, seed)
    if drawn < test:
        return "test"
    return "val" if drawn < test + val else "train"


def split_all(names: Iterable[str], *, seed: int, val: float, test: float) -> Mapping[str, str]:
    """For a list of names that may be short: shares that are right to one name, and none empty.

    With fewer than three names all are for training.
    """
    ordered = sorted(set(names), key=lambda name: place(name, seed))
    number = len(ordered)
    tests, vals = (
        max(1, round(share * number)) if share and number >= 3 else 0 for share in (test, val)
    )
    return {
        name: "test" if i < tests else "val" if i < tests + vals else "train"
        for i, name in enumerate(ordered)
    }
