"""Layers cut over processes: each holds some of the heads and some of the hidden units of every block.

    q, k, v | gate, value      column-wise: each process computes its heads, its hidden units
    attention, activation      on what is there; nothing is exchanged
    project                    row-wise: each process's part of the sum, then one sum over processes

so a block exchanges two sums of (B, T, C) forward and two backward (Shoeybi et al. 2019, Megatron-LM).
Embedding, head, norms and position schemes are whole on every process of the group, as FSDP2 leaves
them; what a scheme says of the heads is cut to those that are there.

A fused projection holds several matrices, one under the other, each to be cut: in memory its rows stand
process by process, [q k v of the first, q k v of the second, …], in checkpoints as ever.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from tasks.errors import UserError
from zoo.decoder import Decoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import MLP, SwiGLU
from zoo.positions.base import Position

KEY = "trainer.strategy.tensor_parallel"


def check(model: nn.Module, size: int) -> None:
    """Raises UserError, in one line, for a model that cannot be cut over `size` processes."""
    instead = "use trainer=fsdp"
    if not isinstance(model, Decoder):
        raise UserError(f"{KEY}: {type(model).__name__} cannot be cut over processes; {instead}")
    for block in model.blocks:
        mixer: Any = block.mixer
        mlp: Any = block.mlp
        if type(mixer) is not SoftmaxAttention:
            raise UserError(
                f"{KEY}: mixer {type(mixer).__name__} cannot be cut over processes, only "
                f"SoftmaxAttention can; {instead}"
            )
        if not isinstance(mlp, MLP | SwiGLU):
            raise UserError(
                f"{KEY}: {type(mlp).__name__} cannot be cut over processes, only networks of "
                f"zoo/mlp.py can; {instead}"
            )
        for name, count in {
            "num_heads": mixer.num_heads,
            "mixer.num_kv_heads": mixer.num_kv_heads,
            "mlp's hidden width": mlp.project.in_features,
        }.items():
            if count % size:
                raise UserError(
                    f"{KEY}: {size} processes do not divide model.{name}={count}; use a divisor"
                )


def cut(model: Decoder, mesh: DeviceMesh) -> None:
    """Cuts a model in place over the processes of a mesh; its `check` comes before."""
    for block in model.blocks:
        mixer: Any = block.mixer
        mlp: Any = block.mlp
        D = mixer.head_dim
        _reorder(mixer.qkv, [mixer.num_heads * D, *2 * [mixer.num_kv_heads * D]], mesh.size())
        if isinstance(mlp, SwiGLU):
            _reorder(mlp.expand, 2 * [mlp.project.in_features], mesh.size())
        plan = {
            "mixer.qkv": ColwiseParallel(),
            "mixer.project": RowwiseParallel(),
            "mlp.expand": ColwiseParallel(),
            "mlp.project": RowwiseParallel(),
        }
        parallelize_module(block, mesh, plan)
        mixer.register_forward_pre_hook(
            lambda mixer, given: (given[0], OwnHeads(given[1], mesh), *given[2:])
        )


def _reorder(linear: nn.Linear, parts: list[int], size: int) -> None:
    """Puts the rows of a fused projection process by process, and notes their order on it."""
    rows = torch.arange(linear.out_features).split(parts)
    linear.split_order = torch.cat([p.chunk(size)[i] for i in range(size) for p in rows])
    with torch.no_grad():
        for parameter in linear.parameters(recurse=False):
            parameter.copy_(parameter[linear.split_order])


class OwnHeads:
    """A position scheme as one process sees it: `rotate` as ever, biases and slopes of its own heads."""

    def __init__(self, position: Position, mesh: DeviceMesh):
        self.position, self.mesh = position, mesh
        self.rotate = position.rotate

    def slopes(self) -> Tensor | None:
        return self._own(self.position.slopes())

    def bias(self, *shape: Any, **options: Any) -> Tensor | None:
        return self._own(self.position.bias(*shape, **options))

    def _own(self, of_heads: Tensor | None) -> Tensor | None:
        """This process's part; its gradient is put together from those of all."""
        if of_heads is None:
            return None
        whole = DTensor.from_local(of_heads, self.mesh, [Replicate()], run_check=False)
        return whole.redistribute(placements=[Shard(0)]).to_local()


def orders(module: nn.Module) -> dict[str, Tensor]:
    """{parameter's name: which of its rows stands where} of what `cut` has reordered."""
    return {
        f"{name}.{parameter}": linear.split_order
        for name, linear in module.named_modules()
        if hasattr(linear, "split_order")
        for parameter, _ in linear.named_parameters(recurse=False)
    }


def reordered(module: nn.Module, values: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """Values by parameter's name, tensors or dictionaries of tensors, with their rows as they stand in
    checkpoints (whole) or in the cut module."""
    changed = dict(values)
    for name, order in orders(module).items():
        rows = order.argsort() if whole else order
        value = values.get(name)
        if isinstance(value, dict):
            changed[name] = {k: x[rows] if x.dim() else x for k, x in value.items()}
        elif value is not None:
            changed[name] = value[rows]
    return changed
