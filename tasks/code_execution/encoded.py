"""The token ids of a split, kept on disk once they are made, and laid out as a prefix language model reads.

    <s> <encoder-decoder> </s> <tutorial> <0> ... <mask0> </s>  |  <mask0> <line> <0> <state> ... </s>
    prompt: seen in both directions                               target: predicted, left to right

(Liu et al. 2023, sections 2.2 and 2.3 of the model's input.) Every token of the target is predicted, its
`<mask0>` from the prompt's last token.

Shapes: B samples, T tokens of the longest, N samples of the split.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.code_execution.formats import DOMAINS
from tasks.code_execution.tokens import TraceTokens
from tasks.data.packing import IGNORED
from tasks.data.progress import progress

OVERHEAD = 7  # tokens of a sample beside those of its source and its trace
_AT_ONCE = 512


@dataclass(frozen=True)
class Layout:
    """The ids that stand around a source and a trace."""

    before: list[int]
    between: list[int]
    target: list[int]
    end: int
    pad: int

    @classmethod
    def of(cls, tokenizer: TraceTokens) -> "Layout":
        """The published layout in a tokenizer's ids."""
        i = tokenizer.id
        return cls(
            before=[i("<s>"), i("<encoder-decoder>"), i("</s>")],
            between=[i("<mask0>"), i("</s>")],
            target=[i("<mask0>")],
            end=i("</s>"),
            pad=i("<pad>"),
        )

    def prompt(self, source: Sequence[int], *, longest: int | None = None) -> list[int]:
        """What the model reads before it writes; `longest` cuts the source at its end."""
        if longest is not None:
            source = source[: max(0, longest - len(self.before) - len(self.between))]
        return [*self.before, *source, *self.between]


def source_of(record: dict[str, Any]) -> str:
    """The text of a program: the token of its set, then its own."""
    return " ".join([DOMAINS[record["source_set"]], *record["code_tokens"]])


def trace_of(record: dict[str, Any]) -> str:
    """The text of its trace, as the published code joins it."""
    return " ".join(record["trace_tokens"])


class Encoded:
    """The samples of one set's split: ids of sources and traces, memory-mapped."""

    def __init__(self, folder: Path):
        self.ids, self.offsets, self.hard = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "offsets", "hard")
        )

    def __len__(self) -> int:
        return len(self.hard)

    def source(self, i: int) -> list[int]:
        """Ids of a program, the token of its set first."""
        return self.ids[self.offsets[2 * i] : self.offsets[2 * i + 1]].tolist()

    def trace(self, i: int) -> list[int]:
        """Ids of its trace."""
        return self.ids[self.offsets[2 * i + 1] : self.offsets[2 * i + 2]].tolist()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens that the model reads of each sample, (N,): all but the last."""
        return np.diff(self.offsets[::2]) + OVERHEAD - 1

    def batch(self, rows: Iterable[int], layout: Layout) -> dict[str, Tensor]:
        """Samples as a batch: `tokens_BT`, `targets_BT` (-100 is not predicted), `prefix_B`."""
        samples, prefixes = [], []
        for i in rows:
            prompt = layout.prompt(self.source(i))
            samples.append([*prompt, *layout.target, *self.trace(i), layout.end])
            prefixes.append(len(prompt))
        return collate(samples, prefixes, layout.pad)


def collate(samples: list[list[int]], prefixes: list[int], pad: int) -> dict[str, Tensor]:
    """Whole sequences and the lengths of their prompts, as a batch filled up at the end."""
    width = max(map(len, samples)) - 1
    tokens = np.full((len(samples), width), pad, dtype=np.int64)
    targets = np.full((len(samples), width), IGNORED, dtype=np.int64)
    for row, (ids, prefix) in enumerate(zip(samples, prefixes)):
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, prefix - 1 : len(ids) - 1] = ids[prefix:]
    return {
        "tokens_BT": torch.from_numpy(tokens),
        "targets_BT": torch.from_numpy(targets),
        "prefix_B": torch.tensor(prefixes),
    }


def write(
    records: Iterator[dict[str, Any]],
    tokenizer: TraceTokens,
    folder: Path,
    *,
    longest: int | None,
    what: str,
) -> dict[str, int]:
    """Encodes records into a folder for `Encoded`; those longer than `longest` tokens are left out.

    Returns how many were kept and how many were too long.
    """
    ids: list[np.ndarray] = []
    hard: list[bool] = []
    too_long = 0
    with progress(what, None) as advance:
        while some := list(islice(records, _AT_ONCE)):
            kept = [r for r in some if r["code_tokens"]]
            sources = tokenizer.encode_batch([source_of(r) for r in kept])
            traces = tokenizer.encode_batch([trace_of(r) for r in kept])
            for record, source, trace in zip(kept, sources, traces):
                if longest is not None and len(source) + len(trace) + OVERHEAD - 1 > longest:
                    too_long += 1
                    continue
                ids += [source, trace]
                hard.append(bool(record.get("hard")))
            advance(len(some))
    folder.mkdir(parents=True)
    flat = np.concatenate(ids) if ids else np.zeros(0, dtype=tokenizer.dtype)
    np.save(folder / "ids.npy", flat.astype(tokenizer.dtype))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    np.save(folder / "hard.npy", np.array(hard, dtype=bool))
    return {"kept": len(hard), "too_long": too_long}
