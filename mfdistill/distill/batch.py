"""From waveforms to what an objective takes; training and validation share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mfdistill.plain import Batch, Raw

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task


def make_batch(task: Task, raw: Raw, device: torch.device | str) -> Batch:
    """``task.batch`` of one micro-batch, with indices of its own where the data gives none (every
    random number is a function of them).
    """
    batch = task.batch(raw, device)
    if batch.get("index") is None:
        batch["index"] = torch.randint(2**31, (len(batch["z_1"]),)).to(device)
    return batch


def loss_count(raws: Sequence[Raw], accelerator: Accelerator) -> Tensor | None:
    """Valid frames of the whole global batch, per micro-batch: (), or None where nothing is masked
    (all weigh the same then).

    Gradients are averaged over ranks and micro-batches. Dividing each sum by this one number makes
    that average the mean over all valid frames of the global batch, however it is split.
    """
    masks = [raw.get("loss_mask") for raw in raws]
    if all(mask is None for mask in masks):
        return None
    total = torch.stack([mask.sum() for mask in masks]).sum().to(accelerator.device, torch.float32)  # type: ignore[union-attr]
    return (accelerator.reduce(total, "sum") / (accelerator.num_processes * len(raws))).clamp_min(
        1.0
    )
