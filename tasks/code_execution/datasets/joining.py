"""Shards into the splits of a set: in their order, without duplicates, as many programs as asked."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.code_execution.datasets.difficulty import HARD, ranks
from tasks.code_execution.datasets.reading import SPLITS, features, split_file


@dataclass
class Chosen:
    """Programs of a set that will be written.

    rows: for each shard, the numbers of its records.
    """

    wanted: int
    rows: dict[Path, list[int]] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    report: dict[str, Any] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)

    @property
    def made(self) -> int:
        return len(self.scores)

    def add(self, folder: Path) -> int:
        """Takes what is new in a shard; how many programs that was."""
        columns = ["code", "source_id", "trace", "difficulty"]
        table = pq.read_table(folder / "records.parquet", columns=columns)
        rows = []
        for i, (code, source, trace, score) in enumerate(zip(*table.to_pydict().values())):
            marks = {_digest(code), _digest(source, *trace)}
            if marks & self.seen:
                self.refused["its text, or its trace and source, came before"] += 1
            elif self.made < self.wanted:
                self.seen |= marks
                self.scores.append(score)
                rows.append(i)
        self.rows[folder] = rows
        about = json.loads((folder / "counts.json").read_text())
        self.refused.update(about.pop("counts"))
        self.report = about
        return len(rows)


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=12).digest()


def write(
    chosen: Chosen, name: str, folder: Path, split: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """Writes SET/SPLIT.parquet into a folder; what the manifest says of the set."""
    (folder / name).mkdir()
    splits: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
    operators: Counter[str] = Counter()
    schema = features().arrow_schema
    with ExitStack() as stack:
        writers = {
            s: stack.enter_context(pq.ParquetWriter(split_file(folder, name, s), schema))
            for s in SPLITS
        }
        for records in _ranked(chosen):
            parts: dict[str, list[dict[str, Any]]] = {}
            for record in records:
                parts.setdefault(split(record), []).append(record)
                operators[record["operator"] or "none"] += 1
            for where, part in parts.items():
                splits[where] += len(part)
                writers[where].write_table(pa.Table.from_pylist(part, schema))
    return {
        "wanted": chosen.wanted,
        "made": chosen.made,
        "candidates": chosen.refused.pop("candidates", 0),
        "splits": dict(splits),
        "operators": dict(sorted(operators.items())),
        "refused": dict(sorted(chosen.refused.items())),
        "shards": len(chosen.rows),
    }


def _ranked(chosen: Chosen) -> Iterator[list[dict[str, Any]]]:
    """The records of each shard, their difficulty now a rank within the whole set."""
    difficulty = iter(ranks(chosen.scores))
    for folder, rows in chosen.rows.items():
        records = pq.read_table(folder / "records.parquet").take(rows).to_pylist()
        for record in records:
            record["difficulty"] = next(difficulty)
            record["hard"] = record["source_set"] == "singleline" and record["difficulty"] >= HARD
        if records:
            yield records
