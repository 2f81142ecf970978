"""What a teacher is: a frozen velocity field on our clock (t = 0 prior, t = 1 data)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Teacher(Protocol):
    """A velocity field; not an ``nn.Module``, so that it is never optimised, wrapped or saved with
    a student.

    Attributes:
        network: ``network(z_t, t, cond) -> v``, the unguided velocity; ``t`` is (b,), or (b, 2)
            stacked [t, r] once the module that embeds time was replaced.
        time_embedding: dotted name of that module inside ``network``; it maps (b,) times to (b, d).

    Optional: ``branches`` (network calls per velocity, 2 with guidance; 1 if absent), ``task`` and
    ``config`` (as saved).
    """

    network: nn.Module
    time_embedding: str

    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)`` in the shape of ``z_t``, guidance applied, without gradient; a 0-d ``t`` is
        expanded.
        """
        ...

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """A draw of ``z_0``."""
        ...

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Teacher:
        """Move the weights in place (Accelerate does not know of them); returns itself."""
        ...
