"""The data sets as one thing to ask for: made where they are missing, then read."""

import hashlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.code_execution.datasets.joining import Chosen, write
from tasks.code_execution.datasets.reading import read_released, split_file
from tasks.code_execution.datasets.shards import BATCH, CANDIDATES, Shard
from tasks.code_execution.datasets.sources import Source, collect
from tasks.code_execution.datasets.splits import split_all, split_of
from tasks.code_execution.datasets.workers import Workers
from tasks.code_execution.formats import SETS
from tasks.code_execution.trace import Refusal, Tracer
from tasks.data.progress import progress
from tasks.data.stage import digest, stage
from tasks.errors import UserError
from tasks.run_folder import say

_FORMAT = 1  # a change of what a shard holds makes another folder


class Programs:
    """Programs and traces of the three sets, from a recipe.

    Args:
        singleline, tutorial, codenet: programs of each set; 0 leaves it out.
        paths: programs for codenet: folders of scripts, .py files, .jsonl of MBPP or HumanEval. None:
            the problems that come with the project.
        released: set -> file of the authors' test data, which then is its test split.
        variants: programs of one source in a shard, the source itself among them.
        max_trace_tokens: words of a trace; programs with longer ones are left out.
        val_fraction, test_fraction: of the sources (codenet: of the problems).
        workers: processes that make programs; None: as many as there are processors. The result
            does not depend on it.
    """

    def __init__(
        self,
        *,
        singleline: int = 20_000,
        tutorial: int = 20_000,
        codenet: int = 10_000,
        paths: Sequence[str] | None = None,
        released: Mapping[str, str] | None = None,
        seed: int = 0,
        variants: int = 16,
        max_trace_tokens: int = 763,
        val_fraction: float = 0.05,
        test_fraction: float = 0.1,
        workers: int | None = None,
        cache_dir: str | Path,
    ):
        self.sizes = {"singleline": singleline, "tutorial": tutorial, "codenet": codenet}
        for name, size in self.sizes.items():
            if size < 0:
                raise ValueError(f"{name}: must be at least 0, got {size}")
        if not 1 <= variants <= CANDIDATES:
            raise ValueError(f"variants: must be between 1 and {CANDIDATES}, got {variants}")
        if max_trace_tokens < 1:
            raise ValueError(f"max_trace_tokens: must be at least 1, got {max_trace_tokens}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers: must be at least 1, got {workers}")
        for name, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 <= share < 0.5:
                raise ValueError(f"{name}: must be in [0, 0.5), got {share}")
        for name in released or {}:
            if name not in SETS:
                raise ValueError(f"released: {name} is none of {', '.join(SETS)}")
        self.paths = list(paths or [])
        self.released = dict(released or {})
        self.seed = seed
        self.variants = variants
        self.max_trace_tokens = max_trace_tokens
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.workers = workers or _processors()
        self.cache_dir = Path(cache_dir).expanduser()

    # ---- what others read

    def fingerprint(self) -> dict[str, Any]:
        """What the records depend on, JSON-like; makes them where they do not exist yet."""
        self.build()
        released = {n: _content(Path(p).expanduser()) for n, p in sorted(self.released.items())}
        return {**self._key, "released": released}

    def read(self, name: str, split: str) -> Iterator[dict[str, Any]]:
        """The records of a set's split, always in the same order; nothing for a set that is left out."""
        if split == "test" and name in self.released:
            yield from read_released(self.released[name], source_set=name)
            return
        path = split_file(self.build(), name, split)
        if path.is_file():
            from pyarrow.parquet import ParquetFile

            for batch in ParquetFile(path).iter_batches():
                yield from batch.to_pylist()

    def manifest(self) -> dict[str, Any]:
        """Counts of what was asked, made and refused, and how."""
        return json.loads((self.build() / "manifest.json").read_text())

    def build(self) -> Path:
        """The folder of all sets, SET/SPLIT.parquet and manifest.json, made now unless it exists.

        Raises UserError where programs cannot be run safely, or a path holds none.
        """
        return stage(self.cache_dir, "programs", self._key, self._build)

    # ---- how they are made

    @cached_property
    def _sources(self) -> tuple[list[Source], dict[str, int]]:
        return collect(self.paths) if self.sizes["codenet"] else ([], {})

    @cached_property
    def _key(self) -> dict[str, Any]:
        sources, _ = self._sources
        return {
            "format": _FORMAT,
            "python": ".".join(map(str, sys.version_info[:2])),
            "sizes": self.sizes,
            "sources": digest([asdict(source) for source in sources]),
            "seed": self.seed,
            "variants": self.variants,
            "max_trace_tokens": self.max_trace_tokens,
            "fractions": self.fractions,
        }

    def _build(self, folder: Path) -> None:
        manifest: dict[str, Any] = {"recipe": self._key, "sets": {}}
        sources: list[dict[str, str]] = []
        if self.sizes["codenet"]:
            running = self._running()
            sources = json.loads(running.read_text())
            left_out = json.loads(running.with_name("left_out.json").read_text())
            manifest["sources"] = {"used": len(sources), "left_out": left_out}
        problems = split_all((s["problem"] for s in sources), seed=self.seed, **self.fractions)

        def split(record: dict[str, Any]) -> str:
            if record["source_set"] == "codenet":
                return problems[record["problem_id"]]
            return split_of(record["source_id"], seed=self.seed, **self.fractions)

        with Workers(self.workers) as workers:
            for name in (name for name in SETS if self.sizes[name]):
                chosen = self._choose(name, workers, len(sources))
                manifest["sandbox"] = chosen.report
                manifest["sets"][name] = write(chosen, name, folder, split)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))

    def _running(self) -> Path:
        """File of the sources that have a trace; a mutant of one that has none is not worth its time."""

        def build(folder: Path) -> None:
            sources, left_out = self._sources
            refused = Counter(left_out)
            good = []
            with Tracer() as tracer, progress("running the sources", len(sources)) as advance:
                for start in range(0, len(sources), BATCH):
                    some = sources[start : start + BATCH]
                    for source, steps in zip(some, tracer.trace_all([s.code for s in some])):
                        if isinstance(steps, Refusal):
                            refused[steps.reason] += 1
                        else:
                            good.append(asdict(source))
                    advance(len(some))
            if not good:
                reasons = "; ".join(f"{n}: {reason}" for reason, n in refused.most_common(3))
                raise UserError(
                    f"data: none of the {len(sources)} programs has a trace ({reasons})"
                )
            (folder / "sources.json").write_text(json.dumps(good))
            (folder / "left_out.json").write_text(json.dumps(dict(sorted(refused.items()))))

        key = {name: self._key[name] for name in ("format", "python", "sources")}
        return stage(self.cache_dir, "programs_sources", key, build) / "sources.json"

    def _choose(self, name: str, workers: Workers, sources: int) -> Chosen:
        """Shard after shard until there are as many programs as asked, or no new ones come."""
        chosen = Chosen(self.sizes[name])
        per_turn = 1
        if name == "codenet":  # shards of one turn go through all sources once
            per_turn = -(-sources // max(1, CANDIDATES // self.variants))
        fruitless = 0
        with progress(f"making programs: {name}", chosen.wanted) as advance:
            for folder in workers.map(self._tasks(name)):
                new = chosen.add(folder)
                advance(new)
                fruitless = 0 if new > CANDIDATES // 50 else fruitless + 1
                if chosen.made == chosen.wanted:
                    break
                if fruitless > per_turn:
                    say(
                        f"{name}: only {chosen.made:,} different programs of {chosen.wanted:,} can be "
                        "made; give more programs with paths"
                    )
                    break
        return chosen

    def _tasks(self, name: str) -> Iterator[dict[str, Any]]:
        key = {"format": _FORMAT, "python": self._key["python"]}
        if name == "codenet":
            key["sources"] = self._key["sources"]
        for number in itertools.count():
            shard = Shard(name, number, self.seed, self.variants, self.max_trace_tokens)
            yield {
                "shard": asdict(shard),
                "key": key,
                "sources": str(self._running()) if name == "codenet" else "",
                "cache": str(self.cache_dir),
            }


def _processors() -> int:
    """As many as this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _content(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
