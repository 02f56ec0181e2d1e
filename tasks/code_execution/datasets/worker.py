"""A process that builds shards: a JSON line with a task in, a JSON line with its folder or an error out.

It imports neither torch nor what needs it, and ends when its caller does.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.code_execution.datasets import shards
from tasks.code_execution.datasets.sources import Source
from tasks.code_execution.formats import COLUMNS
from tasks.code_execution.trace import Tracer
from tasks.data.stage import stage
from tasks.errors import UserError

_TYPES = {"string": pa.string(), "int32": pa.int32(), "float32": pa.float32(), "bool": pa.bool_()}


def _type(kind: str | list[str]) -> pa.DataType:
    return pa.list_(_TYPES[kind[0]]) if isinstance(kind, list) else _TYPES[kind]


class Worker:
    """Builds shards; starts its two sandboxes with the first that is not there yet."""

    def __init__(self) -> None:
        self.tracers: list[Tracer] = []
        self.sources: dict[str, list[Source]] = {}

    def work(self, task: dict[str, Any]) -> Path:
        """The folder of the shard that a task describes, built now unless it exists."""
        shard = shards.Shard(**task["shard"])
        key = {**task["key"], "shard": asdict(shard)}
        return stage(
            Path(task["cache"]), "programs_shards", key, lambda f: self.build(f, shard, task)
        )

    def build(self, folder: Path, shard: shards.Shard, task: dict[str, Any]) -> None:
        """Writes records.parquet and counts.json."""
        if not self.tracers:
            self.tracers = [Tracer(), Tracer(hash_seed=1)]
        schema = pa.schema([(name, _type(kind)) for name, kind in COLUMNS.items()])
        records, counts = shards.build(shard, self.read(task["sources"]), *self.tracers)
        pq.write_table(pa.Table.from_pylist(records, schema), folder / "records.parquet")
        about = {"counts": counts, **self.tracers[0].sandbox.report}
        (folder / "counts.json").write_text(json.dumps(about))

    def read(self, path: str) -> list[Source]:
        if path and path not in self.sources:
            self.sources = {path: [Source(**given) for given in json.loads(Path(path).read_text())]}
        return self.sources.get(path, [])

    def close(self) -> None:
        for tracer in self.tracers:
            tracer.__exit__()


def main() -> None:
    """Serves tasks until the input ends."""
    worker = Worker()
    try:
        for line in sys.stdin:
            try:
                answer = {"folder": str(worker.work(json.loads(line)))}
            except UserError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        worker.close()


if __name__ == "__main__":
    main()
