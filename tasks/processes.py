"""Training on more than one process: a sharded model, and Lightning's processes inside a sweep.

`trainer=ddp` copies the model to every process. `trainer=fsdp` shards it: each process holds its part
of the weights, gradients and optimiser state, and a block's weights are gathered while it computes
(FSDP2; Zhao et al. 2023, Liang et al. 2024). `trainer=tensor_parallel` also cuts every layer over
groups of processes (tensor_parallel.py), and shards over the groups. All see the batches that one
process would.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import read_write
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tasks import tensor_parallel
from tasks.checkpoints import read_checkpoint
from tasks.errors import UserError

# What Lightning leaves in the environment for the processes that it starts.
_RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes, on GPUs or CPUs. Checkpoints are whole files that any trainer reads.

    tensor_parallel: so many neighbouring processes share each layer and read the same batches; FSDP2
    shards over the groups.
    """

    def __init__(self, *, tensor_parallel: int = 1) -> None:
        if tensor_parallel < 1:
            raise ValueError(f"tensor_parallel: must be at least 1, got {tensor_parallel}")
        super().__init__(tensor_parallel_size=tensor_parallel, save_distributed_checkpoint=False)
        self.tensor_parallel = tensor_parallel

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes // self.tensor_parallel
        super().setup_environment()

    def shard(self, model: Any) -> None:
        """Cuts a model of the zoo in place: each block on its own, then what is left together."""
        if isinstance(model, FSDPModule):
            return
        if self.tensor_parallel > 1:
            tensor_parallel.cut(model, self.device_mesh["tensor_parallel"])
        mesh = self.device_mesh["data_parallel"]
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")  # training never calls forward itself

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on the first process alone."""
        assert self.model is not None
        whole = super().lightning_module_state_dict()
        return tensor_parallel.reordered(self.model, whole, whole=True)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state, on the first process alone, as a plain optimiser would have it."""
        assert self.model is not None
        whole = super().optimizer_state(optimizer)
        if not tensor_parallel.orders(self.model) or "state" not in whole or self.global_rank:
            return whole
        names = _names(whole, optimizer, self.model)
        state = {names[i]: s for i, s in whole["state"].items()}
        state = tensor_parallel.reordered(self.model, state, whole=True)
        groups = [{**group, "fused": True} for group in whole["param_groups"]]  # as elsewhere
        return {"state": {i: state[names[i]] for i in whole["state"]}, "param_groups": groups}

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


def _names(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, task: nn.Module
) -> dict[int, str]:
    """The names of the parameters that a plain optimiser's state numbers."""
    names = {id(p): name for name, p in task.named_parameters()}
    return {
        number: names[id(parameter)]
        for old, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
        for number, parameter in zip(old["params"], own["params"], strict=True)
    }


def _by_name(saved: dict[str, Any], optimizer: torch.optim.Optimizer, task: nn.Module) -> Any:
    """A plain optimiser's state keyed by the parameters' names, for this one."""
    names = _names(saved, optimizer, task)
    groups = [
        {**old, "fused": own.get("fused"), "params": [names[i] for i in old["params"]]}
        for old, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    state = {names[i]: s for i, s in saved["state"].items()}
    return {
        "state": tensor_parallel.reordered(task, state, whole=False),
        "param_groups": groups,
    }


def load_weights(task: nn.Module, weights: dict[str, Any]) -> None:
    """Loads whole weights into a task whose model may be sharded; every process calls it."""
    if any(isinstance(module, FSDPModule) for module in task.modules()):
        weights = tensor_parallel.reordered(task, weights, whole=False)
        set_model_state_dict(task, weights, options=StateDictOptions(full_state_dict=True))
    else:
        task.load_state_dict(weights)


def data_share(trainer: Any) -> tuple[int, int]:
    """(number, of how many): whose share of each batch this process reads. Processes that share the
    layers of a model read the same."""
    together = getattr(getattr(trainer, "strategy", None), "tensor_parallel", 1)
    return trainer.global_rank // together, trainer.world_size // together


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scales all gradients so that their norm together is at most `limit`; returns what it was.

    Gradients that lie on different meshes of processes cannot be summed together, only their norms.
    """
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for p in parameters:
        if p.grad is not None:
            by_mesh.setdefault(getattr(p.grad, "device_mesh", None), []).append(p)
    norms = [get_total_norm([p.grad for p in some]) for some in by_mesh.values()]  # type: ignore[misc]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = whole[0] if len(whole) == 1 else torch.linalg.vector_norm(torch.stack(whole))
    for some in by_mesh.values():
        clip_grads_with_norm_(some, limit, norm)
    return norm


def check_processes(trainer: lightning.Trainer, task: Any) -> None:
    """Raises UserError for what the trainer's processes could not do, before they are started."""
    _check_launcher(trainer)
    size = getattr(trainer.strategy, "tensor_parallel", 1)
    if size == 1:
        return
    if trainer.world_size % size:
        raise UserError(
            f"{tensor_parallel.KEY}: {trainer.world_size} processes are not a multiple of {size}; "
            "change trainer.devices"
        )
    if not getattr(task, "tensor_parallel", False):
        raise UserError(
            f"{tensor_parallel.KEY}: {type(task).__name__} does not run on layers that are cut over "
            "processes, task=lm does; use trainer=fsdp"
        )
    tensor_parallel.check(task.model, size)


def _check_launcher(trainer: lightning.Trainer) -> None:
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
