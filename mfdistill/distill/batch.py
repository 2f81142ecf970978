"""From waveforms to what an objective takes; training and validation share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# keys of a raw micro-batch: "clean" (b, s), "degraded" (b, s), "index" (b,) global sample indices,
# optionally "loss_mask" (b, 1, 1, n)


def make_batch(task: Any, raw: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Features of one micro-batch on ``device``, in fp32.

    Returns:
        ``{"z_1": (b, 2, f, n) clean features, "cond": {name: features of the degraded input},
        "loss_mask": (b, 1, 1, n) or None, "index": (b,) int64, "gain": (b, 1) the level
        normalisation, which ``task.waveform(z_1, length) / gain`` undoes}``
    """
    # Mel tasks, whose conditions are more than features of the degraded input
    if hasattr(task, "batch"):
        return task.batch(raw, device)
    clean = raw["clean"].to(device, non_blocking=True)
    degraded = raw["degraded"].to(device, non_blocking=True)
    mask = raw.get("loss_mask")
    with torch.no_grad():
        gain = task.gain(degraded)
        return {
            "z_1": task.target(clean * gain),
            "cond": task.condition(degraded * gain),
            "loss_mask": None if mask is None else mask.to(device),
            "index": torch.as_tensor(raw["index"], device=device),
            "gain": gain,
        }


def loss_count(raws: Sequence[Mapping[str, Any]], accelerator: Any) -> Tensor | None:
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
