"""Options of low-rank deltas, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mfdistill.errors import UserError


@dataclass(frozen=True)
class LoraConfig:
    """A student of low-rank deltas instead of a whole network."""

    rank: int | None = None
    """Train deltas of this rank and the interval embedding only; a file of some 50 MB instead of
    gigabytes (32: F5-TTS Base). None: all weights.
    """
    alpha: float | None = None
    """The deltas count alpha / rank times; None: as much as the rank, once."""
    targets: tuple[str, ...] = ()
    """Regular expressions of the layers' names; by default attention, feed-forward and residual
    blocks where the network has them, otherwise all linear and convolution layers but those of
    time.
    """

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise UserError(f"--lora.rank {self.rank}: must be at least 1, or left out")
        if self.alpha is not None and not self.alpha > 0:
            raise UserError(f"--lora.alpha {self.alpha:g}: must be positive")
        if self.rank is None and (self.targets or self.alpha is not None):
            raise UserError("--lora.rank: missing; the other --lora options need it")
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"--lora.targets {pattern}: no regular expression ({error})"
                ) from error

    @property
    def scale(self) -> float:
        """s."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank
