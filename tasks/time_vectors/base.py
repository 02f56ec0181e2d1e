"""Where a tuning starts: the run of a sweep that it goes on from, waited for while it is going.

The runs of a sweep may go side by side (`hydra/launcher=joblib`): a tuning that comes before its base
model is whole waits for it, and one whose base model has failed says so.
"""

import os
import time
from pathlib import Path

import yaml

from tasks.environment import hardware
from tasks.errors import UserError
from tasks.run_folder import read_json, say
from tasks.time_vectors.cut import BASE

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a sweep's runs each read many configs
PATIENCE = 15.0  # seconds that a sweep's first runs get to appear


def previous(period: str) -> str:
    """What a period is tuned from: online, the one before it (o2 from o1); else the base."""
    number = period.removeprefix("o")
    online = period.startswith("o") and number.isdigit() and int(number) > 1
    return f"o{int(number) - 1}" if online else BASE


def find_base(folder: Path, seed: int, period: str = BASE) -> Path:
    """The run that a run's or a sweep's folder means, of the latter the one of `period` and `seed`.

    Raises UserError where there is none, or where it did not finish.
    """
    if (folder / "config.yaml").is_file():
        return folder
    begun = time.monotonic()
    while (run := _search(folder, seed, period)) is None:
        young = (folder / "multirun.yaml").is_file() and time.monotonic() - begun < PATIENCE
        if not young and not _starting(folder):
            raise UserError(
                f"task.base: {folder} has no run with data.period={period} and seed={seed}; "
                "run that first, or give another run's folder"
            )
        time.sleep(0.5)
    return _finished(run)


def _search(folder: Path, seed: int, period: str) -> Path | None:
    for path in sorted(folder.glob("*/config.yaml")):
        config = yaml.load(path.read_text(), Loader=LOADER) or {}
        data = config.get("data") or {}
        if (str(data.get("period")), config.get("seed")) == (period, seed):
            return path.parent
    return None


def _starting(folder: Path) -> bool:
    """Whether another process has begun a run there and not yet written its config."""
    for path in folder.glob("*/status.json"):
        status = read_json(path)
        others = status.get("process") != os.getpid()
        if others and _going(status) and not (path.parent / "config.yaml").is_file():
            return True
    return False


def _finished(run: Path) -> Path:
    """Waits while another process trains it."""
    said = False
    while _going(status := read_json(run / "status.json")):
        if not said:
            say(f"waiting for the model in {run}")
            said = True
        time.sleep(0.5)
    if status.get("status") != "finished":
        raise UserError(f"task.base: the run in {run} did not finish; go on with it first")
    return run


def _going(status: dict) -> bool:
    """Whether a run's process is at work; one of another machine is believed."""
    if status.get("status") != "running":
        return False
    return status.get("host") != hardware() or _alive(status["process"])


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
