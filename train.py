"""Trains and tests one variant: `python train.py model=xpos task=lm`; many with `-m` and commas.

compose (Hydra, conf/) -> build -> fit and test -> results.json. Nothing here knows a variant.
"""

import os
import sys
from pathlib import Path

# Threads that wait for each other sleep instead of spinning: on a machine that is shared, spinning
# costs a training step five times its work. Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tasks import run_folder, sweep
from tasks.errors import UserError
from tasks.loggers import finish_wandb

run_folder.register_resolvers()
sweep.register_resolver()
CONF = str(Path(__file__).resolve().parent / "conf")


@hydra.main(config_path=CONF, config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """One run; returns the validation loss, which sweepers minimise."""
    from tasks.processes import one_job
    from tasks.run import run, show_results

    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    resumed = context.mode == RunMode.MULTIRUN and cfg.sweep.resume
    if resumed and sweep.is_done(folder):
        return run_folder.read_json(folder / "results.json").get("val/loss")
    status = None
    try:
        continued = run_folder.find_run(cfg) is not None or (resumed and folder.exists())
        status = run_folder.Status(
            folder,
            continued=continued,
            choices=dict(context.runtime.choices),
            overrides=list(context.overrides.task),
        )
        with one_job(folder):
            results = run(run_folder.plain(cfg), folder, continued=continued)
        status.end("finished")
        show_results(results, folder)
        return results.get("val/loss")
    except (UserError, ValueError, FileNotFoundError) as error:
        line = " ".join(str(error).split())
        if status is not None:
            status.end("failed", line)
        run_folder.say(f"error: {line}")
        if context.mode == RunMode.RUN:
            sys.exit(2)
        return None  # a sweep goes on with its next job
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if status is not None:
            status.end("interrupted" if stopped else "failed", f"{type(error).__name__}: {error}")
        if stopped or context.mode == RunMode.RUN:
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        return None
    finally:
        finish_wandb()


if __name__ == "__main__":
    main()
