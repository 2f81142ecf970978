"""Exponential moving average of the trained weights; these averages are what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mfdistill.distill.processes import share


class EMA:
    """Averages of the trainable parameters of ``model``, kept in fp32 on their device or another.

    Update ``n`` (from 1) uses ``min(decay, (1 + n) / (10 + n))``, so that a short run is not an
    average over its random start.
    """

    def __init__(
        self, model: nn.Module, decay: float, device: torch.device | str | None = None
    ) -> None:
        self.decay, self.device = decay, device
        self.updates = 0
        self._live = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        self.averages = {
            name: value.detach().to(device, torch.float32, copy=True)
            for name, value in self._live.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the live weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.averages.items():
            average.lerp_(self._live[name].detach().to(average), 1.0 - decay)

    @torch.no_grad()
    def load(self, averages: Mapping[str, Tensor], updates: int) -> None:
        """Take up averages that were saved; the names must be those of this model."""
        for name, average in self.averages.items():
            average.copy_(share(averages[name], average))
        self.updates = updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model carries the averages; afterwards the very bits it had."""
        # copies in place: fused RNNs on a GPU share one storage
        kept = {
            name: value.detach().to(self.device, copy=True) for name, value in self._live.items()
        }
        with torch.no_grad():
            for name, value in self._live.items():
                value.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._live.items():
                    value.copy_(kept[name])
