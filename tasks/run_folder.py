"""Where a run lives, what it leaves, and which run a `ckpt=` means.

config.yaml  metrics.csv  results.json  status.json  run.log  checkpoints/  plots/  tokenizer/
"""

import datetime
import json
import operator
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from tasks.environment import hardware, versions
from tasks.errors import UserError
from tasks.pretrained import with_checkpoint

# What must agree for a run to be the continuation of another.
IDENTITY = ("pretrained", "model", "task", "data", "tokenizer", "optim", "seed")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Written beside and renamed: a reader never sees half of it."""
    beside = path.with_suffix(path.suffix + ".partial")
    beside.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(beside, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content, {} where it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


class Status:
    """status.json: what state a run is in, and what it takes to repeat it.

    Raises UserError where the folder already holds a run that this one does not continue.
    """

    def __init__(
        self, folder: Path, *, continued: bool, choices: dict[str, Any], overrides: list[str]
    ):
        # The processes that Lightning starts beside the first share its folder, and leave it alone.
        self.silent = os.environ.get("LOCAL_RANK", "0") != "0"
        if (folder / "config.yaml").exists() and not continued and not self.silent:
            raise UserError(
                f"{folder}: already holds a run; choose another folder, or ckpt={folder}"
            )
        self.path = folder / "status.json"
        before = read_json(self.path)
        self.content: dict[str, Any] = {
            "status": "running",
            "error": None,
            "command": " ".join(["python", "train.py", *overrides]),
            "choices": choices,
            "overrides": overrides,
            "process": os.getpid(),
            "host": hardware(),
            "versions": versions(),
            "started": before.get("started", now()),
            "resumed": [*before.get("resumed", []), now()] if before else [],
            "finished": None,
        }
        self._write()

    def end(self, status: str, error: str | None = None) -> None:
        """finished, failed (with a line that says why), or interrupted."""
        self.content |= {"status": status, "error": error, "finished": now()}
        self._write()

    def _write(self) -> None:
        if not self.silent:
            write_json(self.path, self.content)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """config.yaml, with everything resolved."""
    beside = folder / "config.yaml.partial"
    beside.write_text(yaml.safe_dump(config, sort_keys=False))
    os.replace(beside, folder / "config.yaml")


def same_run(config: dict[str, Any], folder: Path) -> bool:
    """True where the run in `folder` was started from the same model, task, data and seed."""
    path = folder / "config.yaml"
    if not path.is_file():
        return False
    saved = yaml.safe_load(path.read_text()) or {}
    return all(_key(saved.get(k)) == _key(config.get(k)) for k in IDENTITY)


def _key(section: Any) -> Any:
    """A config section as compared: what the tokenizer only decides later is left out."""
    if isinstance(section, dict):
        return {k: _key(v) for k, v in section.items() if k != "vocab_size"}
    return section


def find_run(root: DictConfig) -> Path | None:
    """The folder of the run that `ckpt` continues; None for a new run.

    `last` is the newest run under `paths.root` of the same model, task, data and seed.
    Raises UserError where there is nothing to continue.
    """
    ckpt = root.get("ckpt")
    if ckpt is None:
        return None
    if ckpt != "last":
        path = Path(ckpt)
        folder = path if path.is_dir() else path.parent
        folder = folder.parent if folder.name == "checkpoints" else folder
        if not path.exists():
            raise UserError(
                f"ckpt: {ckpt} does not exist; give a .ckpt file, a run's folder, or last"
            )
        if not (folder / "config.yaml").is_file():
            raise UserError(f"ckpt: {folder} is not the folder of a run (it has no config.yaml)")
        return folder
    config = plain(root)
    runs = sorted(Path(root.paths.root).glob("*/*/checkpoints"), key=lambda p: p.stat().st_mtime)
    for checkpoints in reversed(runs):
        if same_run(config, checkpoints.parent):
            return checkpoints.parent
    raise UserError(
        f"ckpt: last finds no run of this model, task, data and seed under {root.paths.root}; "
        "give the run's folder"
    )


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain, resolved containers, Hydra's own part left out; the model of
    `pretrained` in place of the one composed.

    Raises UserError where a key that has no default was not given.
    """
    own = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    for key in sorted(OmegaConf.missing_keys(own)):
        raise UserError(f"{key}: is needed and has no default; give {key}=…")
    content = OmegaConf.to_container(own, resolve=True)
    assert isinstance(content, dict)
    return with_checkpoint(content)  # type: ignore[arg-type]


def run_folder(day: str, time: str, *, _root_: DictConfig) -> str:
    """Hydra resolver `run_folder:DAY,TIME`: a folder named by them, or that of the run continued."""
    try:
        found = find_run(_root_)
    except (UserError, ValueError):
        found = None  # said again, as one line, when the run starts
    if found is not None:
        return str(found)
    choices = _root_.hydra.runtime.choices
    name = f"{time}-{choices.get('model')}-{choices.get('task')}"
    return str(Path(_root_.paths.root).absolute() / day / name)


def register_resolvers() -> None:
    """Makes `${run_folder:…}` and `${times:A,B}` known to the config; called before Hydra composes."""
    if not OmegaConf.has_resolver("run_folder"):
        OmegaConf.register_new_resolver("run_folder", run_folder)
        OmegaConf.register_new_resolver("times", operator.mul)


def say(line: str) -> None:
    """One line to the person, beside whatever the program prints."""
    print(line, file=sys.stderr, flush=True)
