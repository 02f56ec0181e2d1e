"""Built folders and the authors' released test files, as `datasets`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

from tasks.code_execution.formats import COLUMNS, SETS
from tasks.errors import UserError

SPLITS = ("train", "val", "test")


def features() -> "datasets.Features":
    """The columns of a record, as `datasets` describes them."""
    from datasets import Features, Value

    return Features(
        {
            name: [Value(kind[0])] if isinstance(kind, list) else Value(kind)
            for name, kind in COLUMNS.items()
        }
    )


def load(name: str, split: str, *, folder: str | Path) -> "datasets.Dataset":
    """A split of a built folder (`Programs.build`). Raises UserError for a name that it lacks."""
    from datasets import Dataset

    path = split_file(Path(folder), name, split)
    if not path.is_file():
        raise UserError(
            f"{path}: no such split; build it with tasks.code_execution.datasets.Programs"
        )
    beside = Path(folder).with_name(Path(folder).name + ".arrow")  # a built folder stays as it is
    found = Dataset.from_parquet(str(path), cache_dir=str(beside))
    assert isinstance(found, Dataset)
    return found


def split_file(folder: Path, name: str, split: str) -> Path:
    """Where a split lies. Raises UserError for a set or split of another name."""
    if name not in SETS:
        raise UserError(f"{name}: no data set of this name; there are {', '.join(SETS)}")
    if split not in SPLITS:
        raise UserError(f"{split}: no split of this name; there are {', '.join(SPLITS)}")
    return folder / name / f"{split}.parquet"


def read_released(path: str | Path, *, source_set: str) -> Iterator[dict[str, Any]]:
    """Records of a released test file (JSON lines), with what our records hold beside.

    The file's own fields (`id`, `code`, `code_tokens`, `trace`, `trace_tokens`, in the search set also
    `code_id`, `problem_id`, `original_code`) stay as they are. Raises UserError for another file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                tokens = record["code_tokens"], record["trace_tokens"]
                if not all(isinstance(t, list) for t in tokens):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number}: not a record with lists code_tokens and trace_tokens"
                ) from None
            name = str(record.get("code_id", record.get("id", number - 1)))
            yield {
                "source_set": source_set,
                "source_id": name,
                "problem_id": name,
                "operator": "",
                "original_code": record.get("code", ""),
                "trace": record["trace_tokens"],
                "steps": record["trace_tokens"].count("<line>"),
                "difficulty": 0.0,
                "hard": False,
                **record,
            }
