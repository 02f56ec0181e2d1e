"""Training on more than one process: a sharded model, and Lightning's processes inside a sweep.

`trainer=ddp` copies the model to every process. `trainer=fsdp` shards it: each process holds its part
of the weights, gradients and optimiser state, and a block's weights are gathered while it computes
(FSDP2; Zhao et al. 2023, Liang et al. 2024). Both see the batches that one process would.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import read_write
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from tasks.checkpoints import read_checkpoint
from tasks.errors import UserError

# What Lightning leaves in the environment for the processes that it starts.
_RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes, on GPUs or CPUs. Checkpoints are whole files that any trainer reads."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: Any) -> None:
        """Cuts a model of the zoo in place: each block on its own, then what is left together."""
        if isinstance(model, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")  # training never calls forward itself

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Restores weights and optimisers from a whole file, whatever trainer wrote it."""
        state = read_checkpoint(Path(self.broadcast(str(checkpoint_path))))
        task = self.lightning_module
        assert task is not None
        load_weights(task, state.pop("state_dict"))
        whole = StateDictOptions(full_state_dict=True)
        for optimizer, saved in zip(self.optimizers, state["optimizer_states"], strict=True):
            set_optimizer_state_dict(
                task, optimizer, _by_name(saved, optimizer, task), options=whole
            )
        return state


def _by_name(saved: dict[str, Any], optimizer: torch.optim.Optimizer, task: nn.Module) -> Any:
    """A plain optimiser's state, which numbers the parameters of its groups, keyed by their names."""
    names = {id(p): name for name, p in task.named_parameters()}
    groups: list[dict[str, Any]] = []
    by_number: dict[int, str] = {}
    for old, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        fitting = [names[id(p)] for p in own["params"]]
        by_number |= dict(zip(old["params"], fitting, strict=True))
        groups.append({**old, "params": fitting})
    return {"state": {by_number[i]: s for i, s in saved["state"].items()}, "param_groups": groups}


def load_weights(task: nn.Module, weights: dict[str, Any]) -> None:
    """Loads whole weights into a task whose model may be sharded; every process calls it."""
    if any(isinstance(module, FSDPModule) for module in task.modules()):
        set_model_state_dict(task, weights, options=StateDictOptions(full_state_dict=True))
    else:
        task.load_state_dict(weights)


def check_launcher(trainer: lightning.Trainer) -> None:
    """Raises UserError where a sweep's launcher and Lightning would both start processes."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or "BasicLauncher" in hydra.launcher._target_:
        return
    if trainer.strategy.launcher is not None and trainer.num_devices > 1:
        raise UserError(
            f"hydra/launcher: {hydra.runtime.choices['hydra/launcher']} cannot start runs of "
            f"{trainer.num_devices} processes each; leave it out, or on SLURM use submitit_slurm "
            "with hydra.launcher.tasks_per_node of that many"
        )


@contextmanager
def one_job(folder: Path) -> Iterator[None]:
    """Around a job: processes that Lightning starts beside this one run this job, and end with it.

    They are started with the command line of the first, which in a sweep describes the whole sweep.
    So for the job's time the command line and Hydra's folder are the job's own; afterwards the next
    job finds neither its ranks nor its process group.
    """
    hydra = HydraConfig.get()
    arguments, inherited = sys.argv, {name: os.environ.get(name) for name in _RANKS}
    if hydra.mode == RunMode.MULTIRUN:
        sys.argv = [arguments[0], *hydra.overrides.task, "hydra.mode=RUN"]
        with read_write(hydra):  # type: ignore[arg-type]  # a config under its schema's name
            hydra.run.dir = str(folder)
    try:
        yield
    finally:
        sys.argv = arguments
        if inherited["LOCAL_RANK"] is None:
            for name in _RANKS:
                os.environ.pop(name, None)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
