"""The prior's spread measured on data, by the rule that Stream.FM's were chosen by (arXiv
2512.19442).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mfdistill.data.batches import batches
from mfdistill.distill.batch import make_batch
from mfdistill.errors import UserError
from mfdistill.tasks import Restoration, get_task

if TYPE_CHECKING:
    from mfdistill.data.batches import Rows
    from mfdistill.tasks import TaskConfig

QUANTILE = 0.997  # of the crops' errors; three standard deviations reach as far
# the standard deviation is multiplied by this for tasks that make up what is missing
WIDER = {"dereverb": 3.0, "bandwidth": 3.0}
SMOOTHING_BINS = 3.0
CROPS = 512


def measure_spread(
    task: Restoration, dataset: Rows, crops: int = CROPS, batch_size: int = 16
) -> TaskConfig:
    """The task's configuration with its spread measured on the first ``crops`` training samples, to
    three digits.

    A crop's error is ``sqrt(mean |x - m|^2)`` over its bins (for a spread that follows the
    magnitude, of ``(x - m) / scale``), x the clean features and m the prior's mean; the standard
    deviation is a third of the errors' 0.997 quantile. With shape "profile" the same is done in
    every frequency, over the crop's frames, and smoothed along the frequencies by a Gaussian of 3
    bins; ``prior_profile`` is then that standard deviation, and ``sigma_0`` what it is multiplied
    by. ``sigma_1`` stays, or with a profile is 0.001 of it, as published.

    Raises:
        UserError: condition and clean speech are the same in all crops.
    """
    config = task.config
    path = get_task(
        replace(
            config,
            sigma_0=1.0,
            prior_profile=(1.0,) * config.stft.bins if config.prior_shape == "profile" else (),
        )
    ).path
    errors: list[Tensor] = []
    stream = batches(dataset, global_batch=batch_size, num_workers=0)
    for _ in range(-(-crops // batch_size)):
        batch = make_batch(task, next(stream), "cpu")
        m, x = path.end_means(batch["z_1"], batch["cond"])
        scale, _ = path.scales(batch["cond"], like=x)
        squares = ((x - m) / scale).square().sum(1)  # (b, f, n)
        errors.append(squares.mean(-1).double())
    squares = torch.cat(errors)  # (crops, f)
    wider = WIDER.get(config.name, 1.0)
    if not bool((squares > 0).any()):
        raise UserError(
            "--spread data: degraded and clean speech are the same in all crops, so there is nothing to measure"
        )
    if config.prior_shape == "profile":
        profile = smoothed(squares.sqrt().quantile(QUANTILE, 0) / 3)
        return replace(
            config,
            sigma_0=wider,
            sigma_1=0.001,
            prior_profile=tuple(map(_digits, profile.clamp_min(1e-4).tolist())),
        )
    return replace(
        config, sigma_0=_digits(wider * float(squares.mean(1).sqrt().quantile(QUANTILE)) / 3)
    )


def smoothed(profile: Tensor, std_bins: float = SMOOTHING_BINS) -> Tensor:
    """A Gaussian filter along ``(f,)``; the edge values go on beyond the edges."""
    reach = min(round(4 * std_bins), profile.numel() - 1)
    at = torch.arange(-reach, reach + 1, dtype=profile.dtype)
    kernel = (-0.5 * (at / std_bins).square()).exp()
    padded = F.pad(profile[None, None], (reach, reach), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]


def _digits(value: float) -> float:
    """Three digits, that no other order of summation changes: a resumed run must find them
    again.
    """
    return float(f"{value:.3g}")
