"""Sizes of networks, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mfdistill.errors import UserError


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


@dataclass(frozen=True)
class NCSNppConfig:
    """An ``NCSNpp``; the defaults are the published 65 M. ``nf=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1`` has 1.2 M."""

    nf: int = 128
    """Base width, a multiple of 16."""
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)
    """Width of each resolution, in nf; every next one has half the bins and frames."""
    num_res_blocks: int = 2
    """Of each resolution."""
    image_size: int = 256
    """STFT bins; divided by ``2^(levels - 1)``."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Bins of the resolutions with attention; the middle has one always."""
    dropout: float = 0.0
    fourier_scale: float = 16.0
    """Of the time frequencies; 16 makes the time derivative dominate every JVP, take 1 or less for new networks."""
    time: Literal["log", "linear"] = "log"
    """What of ``1 - t`` is embedded."""
    time_floor: float = 1e-4
    """Smallest ``1 - t`` that is embedded or divided by."""
    divide_by_t: bool = False
    """The output pyramid is divided by ``1 - t`` (FlowSE, SGMSE)."""
    delta: bool = False
    """The length of the interval is embedded beside the time (MeanFlowSE)."""
    output: Literal["velocity", "score"] = "velocity"
    """What minus the network is; a score becomes the velocity of its probability flow (OUVE process, the next three)."""
    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_last: float = 1.0
    """Latest time that it was trained at (FlowSE, MeanFlowSE, SGMSE: 0.97)."""

    def __post_init__(self) -> None:
        if not self.ch_mult or min(self.ch_mult) < 1 or self.num_res_blocks < 1 or self.nf < 4 or self.nf % 4:
            raise UserError("network 'ncsnpp': needs nf, a multiple of 4, and one or more ch_mult and num_res_blocks")
        if self.image_size % 2 ** (len(self.ch_mult) - 1):
            raise UserError(
                f"network 'ncsnpp': image_size {self.image_size} is not divided by 2^(levels - 1) = {2 ** (len(self.ch_mult) - 1)}"
            )
