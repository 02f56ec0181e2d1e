"""How fast the packed reader is beside a bare memory map: `python -m tasks.data.bench`.

Both make training batches (int64 inputs and targets) of windows at random places of the same tokens,
on one core, interleaved; the figures are medians of CPU time. The bare reader knows nothing of
documents, epochs or resuming: a seeded draw, one slice of a `numpy.memmap` for each row, one stack,
two casts.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.data.corpora import Stdlib
from tasks.data.datamodule import TextData
from tasks.data.tokenizers import Bytes


def reader_throughput(
    data: TextData, *, rounds: int = 21, tokens_per_round: int = 1 << 20
) -> dict[str, float]:
    """Tokens a second of CPU time, `packed` and `bare`, and their `ratio` (above 1: ours is faster).

    data: prepared. A copy of its training tokens is written to a temporary file for the bare reader.
    """
    B, T = data.batch_size, data.context_length
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        tokens = data.tokens("train")
        tokens.tofile(path)
        bare = _bare(np.memmap(path, dtype=tokens.dtype, mode="r"), B, T, data.seed)
        packed = iter(data.train_dataloader())
        seconds = _interleaved(
            {"packed": lambda: next(packed), "bare": lambda: next(bare)},
            rounds,
            max(1, tokens_per_round // (B * T)),
        )
    speeds = {name: B * T / s for name, s in seconds.items()}
    return {**speeds, "ratio": speeds["packed"] / speeds["bare"]}


def _bare(tokens: np.memmap, B: int, T: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(tokens) - T, size=B).tolist()
        window = np.stack([tokens[start : start + T + 1] for start in starts])
        yield (
            torch.from_numpy(window[:, :-1].astype(np.int64)),
            torch.from_numpy(window[:, 1:].astype(np.int64)),
        )


def _interleaved(
    readers: dict[str, Callable[[], object]], rounds: int, batches: int
) -> dict[str, float]:
    """Median CPU seconds a batch."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _, (name, read) in itertools.product(range(rounds), readers.items()):
        start = time.process_time()
        for _ in range(batches):
            read()
        seconds[name].append((time.process_time() - start) / batches)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Prints the comparison for a few shapes."""
    parser = argparse.ArgumentParser(prog="python -m tasks.data.bench", description=__doc__)
    cache = os.environ.get("ZOO_CACHE", "~/.cache/transformer-zoo")
    parser.add_argument("--cache", default=cache, help="folder of packed corpora")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("batch  context   packed M tokens/s   bare M tokens/s   packed / bare")
    for batch_size, context_length in ((8, 256), (16, 256), (64, 256), (16, 1024), (8, 2048)):
        data = TextData(
            corpus=Stdlib(),
            tokenizer=Bytes(),
            context_length=context_length,
            batch_size=batch_size,
            cache_dir=options.cache,
        )
        found = reader_throughput(data)
        packed, bare = found["packed"] / 1e6, found["bare"] / 1e6
        print(
            f"{batch_size:5} {context_length:8} {packed:19.0f} {bare:17.0f} {found['ratio']:15.2f}"
        )


if __name__ == "__main__":
    main()
