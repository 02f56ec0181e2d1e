"""Reads run folders as they are found: whole, failed, killed half-way or still going.

Nothing here raises for what a run left behind. A file that is missing is empty; one that cannot be
read becomes a line in `Run.problems`, and the run is still there to be shown.
"""

import csv
import json
import math
import os
import re
import socket
import textwrap
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

MARKERS = ("config.yaml", "status.json", "results.json", "metrics.csv")
NOT_RUNS = {"wandb", "checkpoints", "plots", "lightning_logs", "tensorboard", "__pycache__"}
NOT_METRICS = {"seed", "started", "finished", "status"}  # numbers that measure nothing
STATUSES = ("finished", "failed", "interrupted", "running", "unfinished")
SILENT_SECONDS = 30 * 60  # a run that wrote nothing for so long is no longer running
AXES = ("step", "tokens", "seconds")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Curve:
    """One metric as logged: equally long lists, by increasing step; NaN where an axis is missing."""

    step: list[float]
    tokens: list[float]
    seconds: list[float]
    value: list[float]


@dataclass
class Run:
    """One run folder. `config` is flat (`optim.lr`), `results` holds the numbers of results.json,
    `host` the hardware without the machine's name."""

    folder: Path
    name: str
    status: str = "unfinished"
    error: str = ""
    config: dict[str, object] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    command: str = ""
    host: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    results: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    series: dict[str, dict] = field(default_factory=dict)
    plots: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def seed(self) -> str:
        """The seed as text, from the config or else the overrides; empty where neither says."""
        if "seed" in self.config:
            return str(self.config["seed"])
        given = [item[5:] for item in self.overrides if item.startswith("seed=")]
        return given[-1] if given else ""

    @property
    def done(self) -> bool:
        """Whether its results count in the comparison."""
        return self.status == "finished"

    @property
    def last_step(self) -> int | None:
        """The last step in metrics.csv."""
        steps = [c.step[-1] for c in self.curves.values() if c.step and math.isfinite(c.step[-1])]
        return int(max(steps)) if steps else None

    @property
    def duration(self) -> float | None:
        """Seconds from start to finish."""
        try:
            start, end = datetime.fromisoformat(self.started), datetime.fromisoformat(self.finished)
            return (end - start).total_seconds()
        except (ValueError, TypeError):
            return None


def find_runs(folders: list[Path]) -> list[Run]:
    """Every run in or below `folders`, in natural order (2 before 10), each once.

    Raises ValueError naming the folder that does not exist or holds no run.
    """
    places: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {folder}")
        below = _runs_below(folder, depth=3)
        if not below:
            raise ValueError(
                f"no run folders in {folder}: a run folder has one of {', '.join(MARKERS)}"
            )
        places |= dict.fromkeys(place.resolve() for place in below)
    return [read_run(place, name) for place, name in zip(places, _short_names(list(places)))]


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read what `folder` holds; never raises for its contents."""
    run = Run(folder, name if name is not None else folder.name)
    run.config = flatten(_load(run, "config.yaml", lambda text: yaml.load(text, _Loader)))
    status = _load(run, "status.json", json.loads)
    results = _load(run, "results.json", json.loads)
    run.results = {
        str(key): float(value)
        for key, value in results.items()
        if key not in NOT_METRICS
        and (isinstance(value, float) or (type(value) is int and abs(value) < 1 << 1000))
    }
    run.error = textwrap.shorten(str(status.get("error") or ""), 600, placeholder=" …")
    run.command = str(status.get("command") or "")
    choices = _mapping(status.get("choices"))
    run.choices = {str(k): _text(v) for k, v in choices.items() if v not in (None, "null", "")}
    overrides = status.get("overrides")
    run.overrides = [str(item) for item in overrides] if isinstance(overrides, list) else []
    host = flatten(_mapping(status.get("host")))
    run.host = {k: _text(v) for k, v in host.items() if k not in ("host", "process")}
    run.versions = {k: _text(v) for k, v in flatten(_mapping(status.get("versions"))).items()}
    run.finished = str(status.get("finished") or "")
    # The time between a kill and its resumption is nobody's: such a run has no duration.
    run.started = "" if status.get("resumed") else str(status.get("started") or "")
    run.status = _status(run, status, results)
    run.curves = _curves(run)
    series = _load(run, "series.json", json.loads)
    run.series = {str(k): v for k, v in series.items() if isinstance(v, dict)}
    if (folder / "plots").is_dir():
        run.plots = sorted(path for path in (folder / "plots").glob("*.png") if path.is_file())
    return run


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`; lists stay whole."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def natural(text: str) -> list:
    """Sort key that puts `run2` before `run10`."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]


def _runs_below(folder: Path, depth: int) -> list[Path]:
    if _has_marker(folder) and not any(
        child.name.isdigit() and _has_marker(child) for child in _children(folder)
    ):
        return [folder]
    found: list[Path] = []
    for child in _children(folder) if depth else []:
        below = _runs_below(child, depth - 1)
        # A job killed before its first line leaves an empty numbered folder: it, too, was a run.
        found += below or ([child] if child.name.isdigit() else [])
    return found


def _has_marker(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in MARKERS)


def _children(folder: Path) -> list[Path]:
    try:
        inside = [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []
    wanted = [p for p in inside if p.name not in NOT_RUNS and not p.name.startswith(".")]
    return sorted(wanted, key=lambda path: natural(path.name))


def _short_names(folders: list[Path]) -> list[str]:
    """The fewest trailing parts of each path that tell the folders apart."""
    depth = max(len(folder.parts) for folder in folders)
    for count in range(1, depth):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(folders):
            return names
    return [str(folder) for folder in folders]


def _load(run: Run, name: str, parse) -> dict:
    """The mapping in a file of the run; {} with a note where it is unreadable, {} where missing."""
    path = run.folder / name
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        run.problems.append(f"{name} is unreadable: {str(error).splitlines()[0]}")
        return {}
    if content is not None and not isinstance(content, dict):
        run.problems.append(f"{name} holds a {type(content).__name__}, not a mapping")
    return _mapping(content)


def _mapping(value) -> dict:
    return value if isinstance(value, dict) else {}


def _text(value) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _status(run: Run, status: dict, results: dict) -> str:
    said = status.get("status")
    if said is None and results:
        said = results.get("status", "finished")
    if said == "running" and not _alive(run.folder, status):
        return "unfinished"
    if said is not None and said not in STATUSES:
        run.problems.append(f"status {said!r} is none of {', '.join(STATUSES)}")
        return "unfinished"
    return said or "unfinished"


def _alive(folder: Path, status: dict) -> bool:
    """False where the process is known to be gone, or nothing was written for a long time."""
    host = _mapping(status.get("host"))
    pid = status.get("process")
    here = host.get("host") in (None, socket.gethostname())
    if isinstance(pid, int) and pid > 0 and here:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # someone else's process: it lives
    written = [(folder / name).stat().st_mtime for name in MARKERS if (folder / name).is_file()]
    return time.time() - max(written, default=0.0) < SILENT_SECONDS


def _curves(run: Run) -> dict[str, Curve]:
    """The columns of metrics.csv. A resumed run logs some steps twice: the later row counts."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
        if not run.done and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]  # killed while writing this row
        rows = list(csv.reader(text.splitlines()))
    except (OSError, csv.Error) as error:
        run.problems.append(f"metrics.csv is unreadable: {error}")
        return {}
    if not rows:
        return {}
    head, body = rows[0], rows[1:]
    where = {axis: head.index(axis) for axis in AXES if axis in head}
    axes = [[_number(row, where.get(axis)) for row in body] for axis in AXES]
    if "step" not in where:
        axes[0] = [float(i) for i in range(len(body))]
    curves = {}
    for column, name in enumerate(head):
        if name in AXES or not name:
            continue
        logged = {
            axes[0][i]: i
            for i, row in enumerate(body)
            if column < len(row) and row[column].strip() and math.isfinite(axes[0][i])
        }
        if logged:
            order = [logged[step] for step in sorted(logged)]
            step, tokens, seconds = ([axis[i] for i in order] for axis in axes)
            value = [_number(body[i], column) for i in order]
            curves[name] = Curve(step, tokens, seconds, value)
    return curves


def _number(row: list[str], column: int | None) -> float:
    try:
        return float(row[column]) if column is not None else math.nan
    except (ValueError, IndexError):
        return math.nan
