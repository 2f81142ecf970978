"""The processes of a run: how they are launched, and what is sharded among them.

Without ``sharded`` every process holds the whole model (DDP). With it (FSDP2) each holds a share of
the parameters, gradients, averages and the optimiser's state; a network's blocks (classes in its
``shard_units``) are gathered one after another while they are computed, everything else once per
step. Whole tensors are put together to save and to validate and nowhere else, so that a run can go
on under either.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The ``Accelerator`` for a run; other processes of the run are watched from here on.

    Raises:
        UserError: the device cannot compute in ``config.mixed_precision``.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from mfdistill.peers import watch

    wanted = config.sharded or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = None
    if wanted and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision, fsdp_plugin=plugin)
    except ValueError as error:
        raise UserError(
            f"--mixed-precision {config.mixed_precision}: not possible here ({error}); use 'no' or another device"
        ) from error
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate shards on GPUs alone; over gloo it is the same
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    watch(accelerator.device)
    return accelerator


def bf16_is_slow(device: torch.device) -> bool:
    """Whether bf16 has no instructions here, so that fp32 is several times as fast: x86 processors
    without AVX-512.
    """
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in (
        "DEFAULT",
        "NO AVX",
        "AVX2",
    )


def prepare(accelerator: Any, objective: nn.Module, *optimizers: Any) -> tuple[Any, ...]:
    """The objective and its optimisers, wrapped.

    Raises:
        UserError: an adapter is to be sharded.
    """
    if not accelerator.is_fsdp2:
        return accelerator.prepare(objective, *optimizers)
    if getattr(objective.model, "adapter", None) is not None:
        raise UserError("--sharded: an adapter is too small to be shared out; leave it out")
    units = {unit for part in objective.modules() for unit in getattr(part, "shard_units", ())}
    objective._no_split_modules = sorted(units)  # type: ignore[assignment]  # Accelerate's name
    objective.to(accelerator.device)
    # not FSDP2's own mixed precision, which would also cast the batch; autocast, as without it
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    prepared = accelerator.prepare(objective, *optimizers)
    if accelerator.native_amp:
        objective.forward = accelerator.autocast()(objective.forward)  # type: ignore[method-assign]
    return prepared


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Sharded tensors put together, one after another, on the CPU where ``keep``; others as they
    are. Called on every process; without ``keep`` the result is empty.
    """
    found = {}
    for name, value in tensors.items():
        full = put_together(value)
        if keep:
            found[name] = full.cpu() if full is not value else value
    return found


def put_together(value: Tensor) -> Tensor:
    """The whole of a sharded tensor, on its device; others as they are. Called on every process."""
    return value.full_tensor() if _is_sharded(value) else value  # type: ignore[attr-defined, operator]


def share(full: Tensor, like: Tensor) -> Tensor:
    """The part of ``full`` that this process holds of a tensor sharded as ``like`` is; all of it
    where ``like`` is not sharded.
    """
    if not _is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    placed = full.to(device=like.device, dtype=like.dtype)
    # every process has read the same file
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def gathered(accelerator: Any, value: Any) -> list[Any]:
    """``value`` of every process, in their order; called on all of them. Plain values only."""
    if accelerator.num_processes == 1:
        return [value]
    values = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values


def first_error(accelerator: Any, error: str | None) -> tuple[int, str] | None:
    """The first process that met an ``error``, and what it says; None where none did. Called on
    every process.
    """
    if accelerator.num_processes > 1:
        met = torch.tensor(float(error is not None), device=accelerator.device)
        if not accelerator.reduce(met, "sum").item():
            return None
    errors = enumerate(gathered(accelerator, error))
    return next(((rank, text) for rank, text in errors if text is not None), None)


def _is_sharded(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def blank(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without memory for its weights, made before it is sharded."""
    aside = {id(item): item for key, item in vars(model).items() if not key.startswith("_")}
    tensors = {
        id(value): value.detach().to("meta")
        if not isinstance(value, nn.Parameter)
        else nn.Parameter(value.detach().to("meta"), requires_grad=value.requires_grad)
        for value in (*model.parameters(), *model.buffers())
    }
    return copy.deepcopy(model, {**aside, **tensors})


def filled(model: nn.Module, tensors: Mapping[str, Tensor], device: Any) -> nn.Module:
    """``blank``'s copy with weights, in evaluation mode: what is validated where the model itself
    is sharded, since the processes then run it different numbers of times.
    """
    model.to_empty(device=device)
    with torch.no_grad():
        for name, value in {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }.items():
            value.copy_(tensors[name])
    return model.eval()


def reshard(objective: nn.Module) -> None:
    """Forget what a forward pass without a backward pass gathered; it would be used again after the
    weights have changed.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
