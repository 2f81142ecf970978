"""Sizes of networks, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CompactSizes:
    """What one chooses of a ``CompactNet``."""

    channels: int = 64
    """Of every band."""
    blocks: int = 4
    """Residual blocks."""
    band_stride: int = 8
    """STFT bins gathered into one band; divides their number."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Along the frames, block after block."""
    recurrent: int = 0
    """Width of a recurrence along the frames; 0 is none."""
    filter_frames: int = 5
    """Frames that the predicted filter of the state spans."""
    filter_bins: int = 3
    """Bins that it spans; odd."""
    embedding: int = 96
    """Width of the time embedding."""
    causal: bool = False
    """Sees no later frame."""


@dataclass(frozen=True)
class CompactConfig(CompactSizes):
    """And what follows from task and data (``distill.setup.fit_network_config``): ``freqs`` is the number of STFT bins and a multiple of
    ``band_stride``; path and spread of the preconditioning (``networks.preconditioning``)."""

    freqs: int = 256
    sigma_0: float = 0.3
    sigma_1: float = 0.001
    mean: str = "y"
    shape: str = "flat"
    floor: float = 0.02
    residual_std: float = 1.0
