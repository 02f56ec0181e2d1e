"""What reading and writing at length L costs: tokens per second and memory, mask against mask.

    score      one forward pass with its loss over a segment of L tokens
    generate   tokens one by one after L tokens of context, through the key-value cache
    cache      what the cache keeps of L tokens of context, counted in its tensors

The masks take turns in every round and the median round counts, so that a busy machine troubles all of
them alike. Memory is the growth of the peak (resident size on Linux, the allocator's on a GPU) in one
pass, so it holds activations and whatever the masks make necessary, not the weights; elsewhere it
is left out.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from kernels.attention.masks import Mask
from zoo.decoder import Decoder
from zoo.generate import generate

_MB = 2**20


def measure_speed(
    model: Decoder,
    tokens_L1: Tensor,
    *,
    lengths: list[int],
    masks: Mapping[str, Mask],
    new_tokens: int = 32,
    rounds: int = 3,
) -> dict[str, float]:
    """`test/{score,generate}_tokens_per_s@L…`, `…_memory_mb@L…` and `test/cache_memory_mb@L…`.

    tokens_L1: real tokens, one more than the longest length. Lengths that the model is not
    defined for (generating: with `new_tokens` after them) are left out.
    """
    found: dict[str, float] = {}
    limit = model.max_length
    for length in lengths:
        text = tokens_L1[: length + 1][None]
        if limit is None or length <= limit:
            jobs = {name: _scorer(model, text, mask) for name, mask in masks.items()}
            found |= _named("score", length, _rates(jobs, length, rounds), _memory(jobs, text))
        if limit is None or length + new_tokens <= limit:
            jobs = {n: _writer(model, text[:, :-1], m, new_tokens) for n, m in masks.items()}
            found |= _named(
                "generate", length, _rates(jobs, new_tokens, rounds), _memory(jobs, text)
            )
            for name, mask in masks.items():
                kept = _cache_size(model, text[:, :-1], mask) / _MB
                found[f"test/cache_memory_mb@{length}{name}"] = kept
    return found


def _named(
    what: str, length: int, rates: dict[str, float], memory: dict[str, float]
) -> dict[str, float]:
    return {f"test/{what}_tokens_per_s@{length}{n}": rate for n, rate in rates.items()} | {
        f"test/{what}_memory_mb@{length}{n}": mb for n, mb in memory.items()
    }


Job = Callable[[], float]  # does the work once; returns the seconds that count


def _scorer(model: Decoder, text_1T: Tensor, mask: Mask) -> Job:
    def score() -> float:
        start = _now(text_1T.device)
        model.loss(text_1T[:, :-1], text_1T[:, 1:], mask=mask)
        return _now(text_1T.device) - start

    return score


def _writer(model: Decoder, prompt_1T: Tensor, mask: Mask, new_tokens: int) -> Job:
    """Generates after the prompt; the clock starts when the prompt has been read."""

    def write() -> float:
        with _wearing(model, mask):
            tokens = generate(model, prompt_1T, max_new_tokens=new_tokens + 1, temperature=0)
            next(tokens)
            start = _now(prompt_1T.device)
            for _ in islice(tokens, new_tokens):
                pass
            return _now(prompt_1T.device) - start

    return write


def _rates(jobs: dict[str, Job], tokens: int, rounds: int) -> dict[str, float]:
    """Tokens per second of each job: the median over rounds in which the jobs take turns."""
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(job())
    return {name: tokens / statistics.median(times) for name, times in seconds.items()}


def _memory(jobs: dict[str, Job], text_1T: Tensor) -> dict[str, float]:
    """MB that each job adds to the peak; {} where it cannot be measured."""
    grown = {name: _growth(job, text_1T.device) for name, job in jobs.items()}
    return {name: mb for name, mb in grown.items() if mb is not None}


def _growth(job: Job, device: torch.device) -> float | None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return (torch.cuda.max_memory_allocated(device) - before) / _MB
    if not _reset_peak():
        return None
    resident = _resident("VmRSS")
    job()
    return max(0.0, _resident("VmHWM") - resident)


def _reset_peak() -> bool:
    """Linux can set a process's peak back to what it holds now; freed pages are handed back first."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except (OSError, AttributeError):
        return False


def _resident(field: str) -> float:
    """MB, a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _cache_size(model: Decoder, prompt_1T: Tensor, mask: Mask) -> float:
    """Bytes within reach of the cache after the prompt."""
    cache = model.new_cache()
    with torch.no_grad():
        for part in prompt_1T.split(512, dim=1):
            model.hidden(part, mask=mask, cache=cache)
    return cache.size


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _wearing(model: Decoder, mask: Mask) -> Iterator[None]:
    """The model with this mask in place of its own."""
    own = model.mask
    model.mask = mask
    try:
        yield
    finally:
        model.mask = own
