"""A task by its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mfdistill.audio.features import StftConfig
from mfdistill.config import check_ranges

Degradation = Literal["none", "noise", "reverb", "codec", "bandwidth"]


@dataclass(frozen=True)
class TaskConfig:
    """A task by its numbers. ``normalise`` is the level that features are made at: 'peak' of the
    degraded signal, or 'none'.

    ``whole_hops``: signals are padded to whole hops, which keeps the last samples from lying under
    the end of one window; SGMSE, FlowSE and MeanFlowSE do not. ``frame_multiple``: features get
    frames of zeros at the end up to a multiple of it (theirs is 64).
    """

    name: str = "enhance"
    """Its key in ``tasks.task.TASKS``."""
    stft: StftConfig = field(default_factory=StftConfig)
    sigma_0: float = 0.3
    sigma_1: float = 0.001
    prior_mean: Literal["y", "e", "zero"] = "y"
    prior_shape: Literal["flat", "magnitude", "profile"] = "flat"
    prior_floor: float = 0.02
    prior_profile: tuple[float, ...] = ()
    temperature: float = 1.0
    n_mels: int = 80
    normalise: Literal["peak", "none"] = "peak"
    whole_hops: bool = True
    frame_multiple: int = 1

    def __post_init__(self) -> None:
        check_ranges(
            self, "task ", sigma_0=(0, 1e6), sigma_1=(0, 1e6), prior_floor=(0, 1e6), prior_profile=(0, 1e6),
            temperature=(0, 1e6), n_mels=(1, 1024), frame_multiple=(1, 4096),
        )  # fmt: skip
