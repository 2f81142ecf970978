"""States of your own, of any shape and meaning, from normal noise; the batches come ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import CHANNEL_STD
from mfdistill.plain import Batch, Raw
from mfdistill.tasks.base import Task


@dataclass(frozen=True)
class OwnTaskConfig:
    """A flow of your own by its numbers."""

    name: Literal["own"] = "own"
    std: float = 1.0
    """Of every value of ``z_0``: the prior is N(0, std^2). (``flow.GaussianPath`` is for complex
    spectra: its ``sigma_0`` is shared by the two real channels, each of which gets 0.71 of it.)
    """

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"task std: {self.std} must be above 0")


class NormalPath:
    """``z_0 ~ N(0, std^2)``, value by value, and ``z_1`` the data, joined by a straight line."""

    def __init__(self, std: float = 1.0):
        self.std = std

    def end_points(
        self, x: Tensor, cond: Mapping[str, Tensor], eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Arguments as ``flow.GaussianPath.end_points``: ``eps`` has the variance 1/2 of a complex
        number's channel.
        """
        return self.prior(cond, eps), x

    def prior(self, cond: Mapping[str, Tensor], eps: Tensor, t: float = 0.0) -> Tensor:
        """``z_0``; ``t`` is for other paths."""
        return eps * (self.std / CHANNEL_STD)


class OwnTask(Task):
    """A flow of your own; ``std`` is that of every value of its prior.

    Batches are ready mappings: "z_1" (b, ...) data, "cond" a dictionary of tensors with b rows (may
    be left out), and optionally "index" (b,), the samples' global numbers, which make a run
    repeatable whatever the number of processes, and "loss_mask".
    """

    config: OwnTaskConfig

    def __init__(self, config: OwnTaskConfig | None = None, *, std: float = 1.0):
        self.config = OwnTaskConfig(std=std) if config is None else config
        self.sample_rate = 0
        self.path = NormalPath(self.config.std)

    def batch(self, raw: Raw, device: torch.device | str) -> Batch:
        cond = {key: value.to(device) for key, value in (raw.get("cond") or {}).items()}
        batch: Batch = {"z_1": raw["z_1"].to(device), "cond": cond}  # pyright: ignore[reportAssignmentType]
        if raw.get("index") is not None:
            batch["index"] = torch.as_tensor(raw["index"]).to(device)
        mask = raw.get("loss_mask")
        batch["loss_mask"] = None if mask is None else torch.as_tensor(mask).to(device)
        return batch

    def prior_like(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of ``z_0`` in the shape, dtype and on the device of ``z``."""
        source = z.device if generator is None else generator.device
        noise = torch.randn(z.shape, generator=generator, device=source, dtype=z.dtype)
        return self.config.std * noise.to(z.device)
