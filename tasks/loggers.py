"""wandb, with and without an account or a network."""

import os
import socket
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from tasks.run_folder import say


class Wandb(WandbLogger):
    """A wandb run in the run's folder; the runs of a sweep share its folder's name as their `group`.

    offline None: on line where there is a key and the server answers, otherwise off line, with the
    command that uploads the run later. WANDB_MODE, where set, decides.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        project: str = "transformer-zoo",
        entity: str | None = None,
        group: str | None = None,
        offline: bool | None = None,
    ):
        if offline is None:
            offline = os.environ.get("WANDB_MODE", "") != "online" and not can_go_online()
        self.folder = Path(folder)
        if group is None and (self.folder.parent / "multirun.yaml").is_file():
            group = self.folder.parent.name
        self.is_offline = offline
        super().__init__(
            name=self.folder.name,
            save_dir=str(folder),
            project=project,
            entity=entity,
            group=group,
            offline=offline,
        )

    @rank_zero_only
    def log_run(self, config: dict[str, Any], choices: dict[str, Any]) -> None:
        """The config with one key a setting (`model.width`), and what was chosen from each group,
        so that runs can be filtered and grouped by any part of the model."""
        chosen = {f"choice/{group}": choice for group, choice in choices.items()}
        self.experiment.config.update(flatten(config) | chosen)

    @rank_zero_only
    def log_results(self, results: dict[str, Any], series: dict[str, Any]) -> None:
        """The run's results as its summary; the task's curves as tables and line plots."""
        import wandb

        self.experiment.summary.update(results)
        for name, curve in series.items():
            xlabel, ylabel = curve.get("xlabel", "x"), curve.get("ylabel", "y")
            points = [list(point) for point in zip(curve["x"], curve["y"])]
            table = wandb.Table(columns=[xlabel, ylabel], data=points)
            plot = wandb.plot.line(table, xlabel, ylabel, title=name)
            self.experiment.log({f"curve/{name}": plot, f"table/{name}": table})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self.is_offline and not getattr(self, "_told", False):
            self._told = True
            say(f"wandb: logged offline; upload with  wandb sync {self.folder}/wandb/offline-run-*")


def can_go_online(*, timeout: float = 3.0) -> bool:
    """True where wandb has a key to log in with and its server takes connections."""
    import wandb

    settings: Any = wandb.setup().settings
    if settings.mode in ("offline", "disabled"):
        return False
    host = str(settings.base_url).split("//")[-1].split("/")[0]
    key = settings.api_key or os.environ.get("WANDB_API_KEY") or _netrc_key(host)
    if not key:
        return False
    name, _, port = host.partition(":")
    try:
        with socket.create_connection((name, int(port or 443)), timeout=timeout):
            return True
    except OSError:
        return False


def _netrc_key(host: str) -> str | None:
    import netrc

    try:
        found = netrc.netrc().authenticators(host.split(":")[0])
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as one level of dotted keys; lists stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def upload_report(paths: dict[str, Path], *, settings: dict[str, Any], group: str) -> bool:
    """The comparison as an artifact of the sweep's group, where wandb is in use and on line.

    settings: those of the config's wandb logger. True where it was uploaded.
    """
    if settings.get("offline") or not can_go_online():
        return False
    import wandb

    run = wandb.init(
        project=settings["project"], entity=settings["entity"], group=group, job_type="report"
    )
    artifact = wandb.Artifact("comparison", type="report")
    for path in paths.values():
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    run.finish()
    return True


def finish_wandb() -> None:
    """Ends this process's wandb run, if any: a sweep's next job must not go on writing to it."""
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
