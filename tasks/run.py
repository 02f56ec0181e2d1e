"""One run, from its config to its results: build, check, fit, test, write.

Everything that can be wrong is found before training starts: the config is built, the data are
there, the checkpoint fits.
"""

import logging
import math
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table

from tasks import pretrained
from tasks.base import Task
from tasks.callbacks.checkpoints import Checkpoints
from tasks.callbacks.meter import Meter
from tasks.checkpoints import AtomicCheckpointIO, check_shapes, newest_whole, read_checkpoint
from tasks.environment import resolve_precision
from tasks.metrics_file import MetricsFile
from tasks.optim import Budget
from tasks.processes import check_processes, data_share, load_weights
from tasks.run_folder import read_json, say, write_config, write_json
from zoo.flops import parameters_by_part, peak_flops, training_flops
from zoo.load import build

log = logging.getLogger(__name__)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its notices on every start
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def run(config: dict[str, Any], folder: Path, *, continued: bool) -> dict[str, Any]:
    """Trains and tests what a resolved config describes, into `folder`; returns its results.

    continued: the folder holds this run's earlier part. Raises UserError (or ValueError) with one
    line for whatever a person can mend.
    """
    lightning.seed_everything(config["seed"], verbose=False)
    data = build(config["data"], key="data")
    data.prepare_data()
    data.setup("fit")
    tokenizer = data.tokenizer
    config["model"]["vocab_size"] = config["model"].get("vocab_size") or tokenizer.vocab_size
    model = build(config["model"], key="model")
    path = _checkpoint(config, folder) if continued else None
    if path is None:
        pretrained.load_weights(config, model, tokenizer)
    state = None if path is None else read_checkpoint(path)
    if state is not None and path is not None:
        check_shapes(state, model, path)
    trainer = _trainer(config, folder, None if state is None else state["global_step"])
    task = _task(config, model, trainer)
    check_processes(trainer, task)
    if trainer.is_global_zero:
        write_config(folder, config)
        tokenizer.save(folder / "tokenizer")
        show_model(model, folder, config, trainer)
        choices = read_json(folder / "status.json").get("choices", {})
        for logger in trainer.loggers:
            if hasattr(logger, "log_run"):
                logger.log_run(config, choices)
    if config.get("compile"):
        model.compile()
    del state
    with torch.random.fork_rng():  # a peak measured here must not move the run's draws
        peak = peak_flops(trainer.strategy.root_device, _dtype(trainer))
    try:
        trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    return _results(config, folder, trainer, task, data, peak)


def _checkpoint(config: dict[str, Any], folder: Path) -> Path | None:
    """The file to go on from: the one that `ckpt` names, or the run's newest whole one."""
    named = Path(config["ckpt"]) if config.get("ckpt") not in (None, "last") else None
    if named is not None and named.is_file():
        return named
    path = newest_whole(folder)
    if path is not None:
        say(f"continuing {folder} from {path.name}")
    else:
        say(f"continuing {folder} from its start: it has no whole checkpoint yet")
    return path


def _trainer(config: dict[str, Any], folder: Path, resume_step: int | None) -> lightning.Trainer:
    settings = dict(config["trainer"])
    settings["precision"] = resolve_precision(
        settings.get("precision", "auto"), settings.get("accelerator", "auto")
    )
    callbacks = list(build(config.get("callbacks") or {}, key="callbacks").values())
    loggers = list(build(config.get("logger") or {}, key="logger").values())
    return build(
        settings,
        key="trainer",
        callbacks=[c for c in callbacks if c is not None],
        logger=[MetricsFile(folder=folder, resume_step=resume_step), *loggers],
        plugins=[AtomicCheckpointIO()],
        max_steps=-1,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )


def _task(config: dict[str, Any], model: torch.nn.Module, trainer: lightning.Trainer) -> Task:
    data = config["data"]
    budget = Budget(
        tokens_per_step=data["batch_size"]
        * config["model"]["context_length"]
        * trainer.accumulate_grad_batches
        * data_share(trainer)[1],
        default_tokens=config["default_tokens"],
        max_steps=config.get("max_steps"),
        max_tokens=config.get("max_tokens"),
        max_minutes=config.get("max_minutes"),
    )
    steps = budget.steps
    trainer.fit_loop.epoch_loop.max_steps = -1 if steps is None else steps
    every = config.get("validate_every")
    if every is None:
        every = max(1, math.ceil((steps or 4000) / 10))
    trainer.val_check_interval = every * trainer.accumulate_grad_batches
    return build(
        config["task"],
        key="task",
        model=model,
        optim=build(config["optim"], key="optim"),
        budget=budget,
        seed=config["seed"],
    )


def _dtype(trainer: lightning.Trainer) -> torch.dtype:
    return torch.float32 if trainer.precision == "32-true" else torch.bfloat16


def show_model(
    model: torch.nn.Module, folder: Path, config: dict[str, Any], trainer: lightning.Trainer
) -> None:
    """Prints the parameter count by part, and where the run is."""
    parts = parameters_by_part(model)
    table = Table(title=f"{config.get('name', 'model')}: parameters", title_justify="left")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_section()
    table.add_row("all", f"{sum(parts.values()):,}")
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"run folder: {folder}\n{trainer.precision} on {trainer.strategy.root_device}",
        soft_wrap=True,
    )


def _results(
    config: dict[str, Any],
    folder: Path,
    trainer: lightning.Trainer,
    task: Task,
    data: Any,
    peak: float,
) -> dict[str, Any]:
    meter = next(c for c in trainer.callbacks if isinstance(c, Meter))  # type: ignore[attr-defined]
    saver = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    best = folder / "checkpoints" / "best.ckpt"
    trainer.strategy.barrier()  # until the first process has written it
    if best.is_file():
        load_weights(task, read_checkpoint(best)["state_dict"])
    length = config["model"]["context_length"]
    steps, seconds = trainer.global_step, meter.seconds
    trainer.test(task, datamodule=data, verbose=False)
    results: dict[str, Any] = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if saver.best is not None:
        results |= {"val/loss": saver.best, "best_step": saver.best_step}
    model = task.model
    speed = meter.tokens_per_s
    results |= data.baselines() if hasattr(data, "baselines") else {}
    results |= {
        "params": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * task.budget.tokens_per_step,
        "train_seconds": round(seconds, 3),
        "tokens_per_s": round(speed, 1),
        "flops_per_token": training_flops(model, length),  # type: ignore[arg-type]
        "exact_flops_per_token": training_flops(model, length, exact=True),  # type: ignore[arg-type]
        "flops_per_s": speed * training_flops(model, length),  # type: ignore[arg-type]
        "utilisation": speed * training_flops(model, length) / (peak * trainer.world_size),  # type: ignore[arg-type]
        "peak_flops": peak,
        "peak_memory_mb": _peak_memory(trainer),
        "precision": str(trainer.precision),
        "seed": config["seed"],
        "finished": time.time(),
    }
    results |= task.results()
    if trainer.is_global_zero:
        write_json(folder / "results.json", results)
        for logger in trainer.loggers:
            if hasattr(logger, "log_results"):
                logger.log_results(results, read_json(folder / "series.json"))
    return results


def _peak_memory(trainer: lightning.Trainer) -> float:
    """MB: the GPU's peak, or on a CPU that of the process."""
    if trainer.strategy.root_device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def show_results(results: dict[str, Any], folder: Path) -> None:
    """The closing table: the model beside its yardsticks, then how fast and how large.

    A quantity measured under more than a few conditions (`test/ppl@…`) is a curve: its task shows it.
    """
    table = Table(title="results", title_justify="left", show_header=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    shown = [k for k in results if k.split("/")[0] in ("test", "val")]
    conditions = Counter(k.partition("@")[0] for k in shown)
    shown = [k for k in shown if conditions[k.partition("@")[0]] <= 4]
    for name in sorted(shown):
        table.add_row(name, f"{results[name]:.4f}")
    yardsticks = {k: v for k, v in results.items() if k.startswith("baseline/")}
    if yardsticks:
        table.add_section()
        for name, value in yardsticks.items():
            table.add_row(name, f"{value:.4f}")
    table.add_section()
    table.add_row("parameters", f"{results['params']:,}")
    table.add_row("tokens seen", f"{results['tokens']:,}")
    table.add_row("training time", f"{results['train_seconds']:,.0f} s")
    table.add_row("speed", f"{results['tokens_per_s']:,.0f} tokens/s")
    table.add_row(
        "model FLOP/s",
        f"{results['flops_per_s'] / 1e9:,.1f} G ({results['utilisation']:.0%} of {results['peak_flops'] / 1e9:,.0f} G)",
    )
    table.add_row("peak memory", f"{results['peak_memory_mb']:,.0f} MB")
    console = Console()
    console.print(table)
    console.print(f"run folder: {folder}", soft_wrap=True)
