"""What is measured on data before a network is trained from scratch."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch

from mfdistill.data.batches import Rows, batches
from mfdistill.distill.batch import make_batch
from mfdistill.errors import UserError
from mfdistill.networks import CompactConfig, CompactSizes
from mfdistill.networks.config import CausalNCSNppConfig, DCUNetConfig, NCSNppConfig
from mfdistill.networks.sizes import UNetSizes, unet_config

if TYPE_CHECKING:
    from mfdistill.tasks import Restoration, TaskConfig


def fit_task(config: TaskConfig, backbone: str) -> TaskConfig:
    """The task as a network needs it: DCUNet takes an odd number of bins, with that at half the
    sample rate.

    Raises:
        UserError: a causal task, and a network that sees later frames whatever one does.
    """
    if config.stft.causal and backbone in ("ncsnpp", "dcunet"):
        raise UserError(
            f"--backbone {backbone}: sees later frames, so it is not --causal; take compact or causal_ncsnpp"
        )
    return (
        replace(config, stft=replace(config.stft, drop_nyquist=False))
        if backbone == "dcunet"
        else config
    )


def fit_network(
    task: Restoration,
    dataset: Rows,
    backbone: str,
    compact: CompactSizes,
    unet: UNetSizes,
    residual_std: float | None = None,
    delta: bool = False,
) -> CompactConfig | NCSNppConfig | DCUNetConfig | CausalNCSNppConfig:
    """Sizes of any network fitted to a task and its data (``fit_network_config``,
    ``networks.sizes.unet_config``; errors as there).
    """
    if backbone == "compact":
        return fit_network_config(task, dataset, compact, residual_std=residual_std)
    bins = task.config.stft.bins
    config = unet_config(backbone, unet, bins, delta, task.predictor is not None)
    if isinstance(config, DCUNetConfig):
        stride = math.prod(row[4] for row in config.rows)
        if (bins - 1) % stride:
            raise UserError(
                f"--n-fft: gives {bins} bins, and {config.architecture} needs one more than a multiple of {stride}"
            )
    return config


def fit_network_config(
    task: Restoration,
    dataset: Rows,
    config: CompactSizes | None = None,
    count: int = 4,
    batch_size: int = 16,
    residual_std: float | None = None,
) -> CompactConfig:
    """Sizes completed by what follows from task and data, for the network's preconditioning.

    ``residual_std`` is ``sqrt(mean |x - m|^2 / mean(|y|^2 + floor^2))`` (where the prior has a
    profile: over the mean of its squares; with a predictor's estimate e: over ``mean(|y|^2 + |e|^2
    + floor^2)``) over ``count`` training batches, to three digits (x clean features, m the mean of
    the prior, y those of the condition); the rest is the task's path and number of bins, and
    whether it has a predictor.

    Args:
        dataset: as ``data.open_train`` gives it.
        residual_std: already measured (by the run that is resumed).

    Raises:
        UserError: nothing but silence in the data, or ``band_stride`` does not divide the bins.
    """
    sizes = config or CompactSizes()
    stft, path = task.config.stft, task.path
    if sizes.band_stride < 1 or stft.bins % sizes.band_stride:
        raise UserError(
            f"--network.band-stride {sizes.band_stride}: does not divide the {stft.bins} bins of this task"
        )
    known = {field.name: getattr(sizes, field.name) for field in fields(CompactSizes)}
    fitted = CompactConfig(
        **known,
        freqs=stft.bins,
        sigma_0=path.sigma_0,
        sigma_1=path.sigma_1,
        mean=path.mean,
        shape=path.shape,
        floor=path.floor,
        profile=path.profile,
        predicted=task.predictor is not None,
    )
    return replace(
        fitted, residual_std=residual_std or _residual_std(task, dataset, count, batch_size)
    )


def _residual_std(task: Restoration, dataset: Rows, count: int, batch_size: int) -> float:
    residual = level = 0.0
    stream = batches(dataset, global_batch=batch_size, num_workers=0)
    for _ in range(count):
        batch = make_batch(task, next(stream), "cpu")
        x, seen = batch["z_1"], [batch["cond"][key] for key in ("y", "e") if key in batch["cond"]]
        m, _ = task.path.end_means(x, batch["cond"])
        residual += float((x - m).square().sum(1).double().mean())
        profile = torch.tensor(task.path.profile, dtype=torch.float64)
        energy = sum(value.square().sum(1).double().mean() for value in seen) + task.path.floor**2
        level += float(profile.square().mean() if task.path.profile else energy)
    if not residual > 0:
        raise UserError(
            "--data: condition and clean speech are the same in the first batches: nothing to learn; check the corpus"
        )
    # digits that no other summation order changes: a resumed run must find them again
    return float(f"{(residual / level) ** 0.5:.3g}")
