"""Many runs from one command: where they live, how an interrupted sweep goes on, what it ends with."""

import os
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tasks.loggers import upload_report
from tasks.run_folder import read_json, say

MEMO = "ZOO_RESUMED_SWEEP"


def sweep_folder(day: str, time: str, *, _root_: DictConfig) -> str:
    """Hydra resolver `sweep_folder:DAY,TIME`: a folder named by them, or with sweep.resume=true
    that of the newest sweep that was started with the same choices.

    Only the sweep itself knows all its choices, a job just its own. So the sweep, which asks first,
    leaves the answer in the environment, where its jobs find it in whatever process they run.
    """
    root = Path(_root_.paths.root).absolute() / "sweeps"
    if not _root_.sweep.resume:
        return str(root / day / time)
    asked, _, answer = os.environ.get(MEMO, "").partition(" ")
    if asked == f"{day}/{time}":
        return answer
    wanted = _choices(OmegaConf.to_container(_root_.hydra.overrides.task, resolve=False))
    folder = root / day / time
    for saved in sorted(root.glob("*/*/multirun.yaml"), reverse=True):
        hydra = yaml.safe_load(saved.read_text())["hydra"]
        if _choices(hydra["overrides"]["task"]) == wanted:
            folder = saved.parent
            break
    os.environ[MEMO] = f"{day}/{time} {folder}"
    return str(folder)


def _choices(overrides: Any) -> list[str]:
    return sorted(o for o in overrides if not o.startswith("sweep.resume="))


def register_resolver() -> None:
    """Makes `${sweep_folder:…}` known to the config; called before Hydra composes."""
    if not OmegaConf.has_resolver("sweep_folder"):
        OmegaConf.register_new_resolver("sweep_folder", sweep_folder)


def is_done(folder: Path) -> bool:
    """True where a sweep's job has nothing left to do."""
    return read_json(folder / "status.json").get("status") == "finished"


class Comparison(Callback):
    """Hydra callback: when the last job of a sweep has ended, compares them all."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from zoo.report import compare

        folder = Path(config.hydra.sweep.dir)
        runs = [
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        ]
        failed = {
            path.name: read_json(path / "status.json").get("error")
            for path in runs
            if not is_done(path)
        }
        written = compare([folder], baseline=config.sweep.get("baseline"))
        for path in written.values():
            say(f"comparison: {path}")
        losses = {path: read_json(path / "results.json").get("val/loss") for path in runs}
        known = {path: loss for path, loss in losses.items() if loss is not None}
        if known:
            best = min(known, key=known.__getitem__)
            say(f"best: {best} (val/loss {known[best]:.4f})")
        logger = OmegaConf.to_container(config.get("logger") or OmegaConf.create(), resolve=False)
        if isinstance(logger, dict) and "wandb" in logger:
            upload_report(written, settings=logger["wandb"], group=folder.name)
        if failed:
            lines = "".join(f"\n  {folder / name}: {error}" for name, error in failed.items())
            say(f"error: {len(failed)} of {len(runs)} runs did not finish{lines}")
            raise SystemExit(1)
