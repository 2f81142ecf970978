"""Losses of the features themselves, over the frames that count."""

from __future__ import annotations

from torch import Tensor

from mfdistill.distill.objectives.base import Batch, absolute_error, squared_error
from mfdistill.tasks import Task


def mel_l1(task: Task, z_1: Tensor, batch: Batch) -> Tensor:
    """Mean ``|a - b|`` of standardised log-Mel values, (b,)."""
    return absolute_error(z_1, batch["z_1"], batch.get("loss_mask"))


def features(task: Task, z_1: Tensor, batch: Batch) -> Tensor:
    """Mean ``|a - b|^2``, (b,); alone, from a prior at temperature 0, it makes a regression."""
    return squared_error(z_1, batch["z_1"], batch.get("loss_mask"))
