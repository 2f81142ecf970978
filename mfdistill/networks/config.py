"""Sizes of networks, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mfdistill.config import check_ranges
from mfdistill.errors import UserError

WIDEST, DEEPEST = 16384, 512  # channels, and blocks, of any network; no file sets more


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

    def __post_init__(self) -> None:
        check_ranges(
            self, "network 'compact': ", channels=(1, WIDEST), blocks=(0, DEEPEST), band_stride=(1, WIDEST),
            dilations=(1, WIDEST), recurrent=(0, WIDEST), filter_frames=(1, 255), filter_bins=(1, 255), embedding=(2, WIDEST),
        )  # fmt: skip
        if not self.dilations:
            raise UserError("network 'compact': dilations: needs one or more")


@dataclass(frozen=True)
class CompactConfig(CompactSizes):
    """And what follows from task and data (``distill.setup.fit_network_config``): ``freqs`` is the
    number of STFT bins and a multiple of ``band_stride``; path and spread of the preconditioning
    (``networks.preconditioning``).
    """

    freqs: int = 256
    sigma_0: float = 0.3
    sigma_1: float = 0.001
    mean: str = "y"
    shape: str = "flat"
    floor: float = 0.02
    profile: tuple[float, ...] = ()
    residual_std: float = 1.0
    predicted: bool = False
    """Sees a predictor's estimate beside the condition."""
    decoupled: int = 0
    """Filters per channel of the blocks' convolutions after compression (arXiv 1808.05517); 0 is
    none.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, "network 'compact': ", freqs=(1, 65536), sigma_0=(0, 1e6), sigma_1=(0, 1e6), floor=(0, 1e6),
            profile=(0, 1e6), residual_std=(0, 1e6), decoupled=(0, WIDEST),
        )  # fmt: skip


@dataclass(frozen=True)
class NCSNppConfig:
    """An ``NCSNpp``; the defaults are the published 65 M. ``nf=32, ch_mult=(1, 1, 2, 2),
    num_res_blocks=1`` has 1.2 M.
    """

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
    """Of the time frequencies; 16 makes the time derivative dominate every JVP, take 1 or less for
    new networks.
    """
    time: Literal["log", "linear"] = "log"
    """What of ``1 - t`` is embedded."""
    time_floor: float = 1e-4
    """Smallest ``1 - t`` that is embedded or divided by."""
    divide_by_t: bool = False
    """The output pyramid is divided by ``1 - t`` (FlowSE, SGMSE)."""
    delta: bool = False
    """The length of the interval is embedded beside the time (MeanFlowSE)."""
    output: Literal["velocity", "score"] = "velocity"
    """What minus the network is; a score becomes the velocity of its probability flow (OUVE
    process, the next three).
    """
    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_last: float = 1.0
    """Latest time that it was trained at (FlowSE, MeanFlowSE, SGMSE: 0.97)."""

    def __post_init__(self) -> None:
        check_ranges(
            self, "network 'ncsnpp': ", nf=(-math.inf, WIDEST), ch_mult=(-math.inf, 256), num_res_blocks=(-math.inf, DEEPEST),
            image_size=(1, 65536), attn_resolutions=(0, 65536), dropout=(0, 1), fourier_scale=(0, 1e6), time_floor=(0, 1),
            theta=(0, 1e6), sigma_min=(0, 1e6), sigma_max=(0, 1e6), t_last=(0, 1),
        )  # fmt: skip
        if (
            len(self.ch_mult) > 16
            or not self.ch_mult
            or min(self.ch_mult) < 1
            or self.num_res_blocks < 1
            or self.nf < 4
            or self.nf % 4
        ):
            raise UserError(
                "network 'ncsnpp': needs nf, a multiple of 4, and one or more ch_mult and num_res_blocks"
            )
        if self.image_size % 2 ** (len(self.ch_mult) - 1):
            raise UserError(
                f"network 'ncsnpp': image_size {self.image_size} is not divided by 2^(levels - 1) = {2 ** (len(self.ch_mult) - 1)}"
            )


# rows of encoders: channels in and out, then kernel, stride, padding and dilation, each over
# (frequencies, frames)
DCUNET_TABLES: dict[str, tuple[tuple[int, ...], ...]] = {
    "DCUNet-10": (
        (1, 32, 7, 5, 2, 2, 3, 2, 1, 1),
        (32, 64, 7, 5, 2, 2, 3, 2, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
    ),
    "DCUNet-16": (
        (1, 32, 7, 5, 2, 2, 3, 2, 1, 1),
        (32, 32, 7, 5, 2, 1, 3, 2, 1, 1),
        (32, 64, 7, 5, 2, 2, 3, 2, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
    ),
    "DCUNet-20": (
        (1, 32, 7, 1, 1, 1, 3, 0, 1, 1),
        (32, 32, 1, 7, 1, 1, 0, 3, 1, 1),
        (32, 64, 7, 5, 2, 2, 3, 2, 1, 1),
        (64, 64, 7, 5, 2, 1, 3, 2, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 1, 2, 1, 1, 1),
        (64, 64, 5, 3, 2, 2, 2, 1, 1, 1),
        (64, 90, 5, 3, 2, 1, 2, 1, 1, 1),
    ),
    "DilDCUNet-v2": (
        (1, 32, 4, 4, 1, 1, 2, 2, 1, 1),
        (32, 32, 4, 4, 1, 1, 2, 2, 1, 1),
        (32, 32, 4, 4, 1, 1, 2, 2, 1, 1),
        (32, 64, 4, 4, 2, 1, 2, 2, 2, 1),
        (64, 128, 4, 4, 2, 2, 2, 2, 4, 1),
        (128, 256, 4, 4, 2, 2, 2, 2, 8, 1),
    ),
}


@dataclass(frozen=True)
class DCUNetConfig:
    """A ``DCUNet``; the defaults have 3.6 M parameters."""

    architecture: str = "DilDCUNet-v2"
    """One of ``DCUNET_TABLES``; not used where ``table`` is given."""
    table: tuple[tuple[int, ...], ...] = ()
    """Other encoders, rows as in ``DCUNET_TABLES``."""
    embed_dim: int = 128
    """Width of the time embedding, of which half are frequencies."""
    norm: Literal["bN", "CbN"] = "bN"
    """Of each part with running statistics, or of both together with the batch's."""
    activation: str = "relu"
    """relu, leaky_relu or silu."""
    time_activation: str = "silu"
    """Of the layers that embed time."""
    layers_global: int = 2
    layers_local: int = 1
    """Layers of the time embedding, shared and per block."""
    time: Literal["gfp", "ds"] = "gfp"
    """Random Fourier features of ``1 - t``, or frequencies from 1 to 10^4."""
    complex_time: bool = False
    """Features are points on the complex unit circle."""
    fourier_scale: float = 16.0
    output: Literal["velocity", "score"] = "velocity"
    """As ``NCSNppConfig``, with what follows."""
    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_last: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, "network 'dcunet': ", embed_dim=(2, WIDEST), layers_global=(0, 64), layers_local=(0, 64),
            fourier_scale=(0, 1e6), theta=(0, 1e6), sigma_min=(0, 1e6), sigma_max=(0, 1e6), t_last=(0, 1),
        )  # fmt: skip
        if len(self.table) > 64 or any(not 0 <= n <= WIDEST for row in self.table for n in row):
            raise UserError(
                f"network 'dcunet': table: at most 64 rows of numbers from 0 to {WIDEST}"
            )
        if not self.table and self.architecture not in DCUNET_TABLES:
            raise UserError(
                f"network 'dcunet': architecture '{self.architecture}' is unknown; known are: {', '.join(DCUNET_TABLES)}"
            )
        if any(len(row) != 10 for row in self.table):
            raise UserError(
                "network 'dcunet': table: each row has 10 numbers (channels in and out, kernel, stride, padding, dilation)"
            )

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        return self.table or DCUNET_TABLES[self.architecture]


@dataclass(frozen=True)
class CausalNCSNppConfig:
    """A ``CausalNCSNpp``, under Stream.FM's own names; the defaults are its published flow (27.9 M
    parameters).
    """

    nf: int = 128
    """Base width, a multiple of 4."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Widths of the levels in units of ``nf``; every level after the first has half the
    frequencies.
    """
    num_res_blocks: int = 2
    """Residual blocks per level."""
    input_channels: int = 4
    """4: state and condition; 6: state, predictor's estimate, condition; 2: condition only, a
    predictor.
    """
    output_channels: int = 2
    input_freqs: int = 256
    """STFT bins."""
    conditional: bool = True
    """On time."""
    fourier_scale: float = 16.0
    down_dilation: int = 2
    """Along the frames, of the first convolution of blocks that halve the frequencies."""
    freq_groups: int = 4
    """Sub-bands of the norms."""
    no_freq_groups_below: int = 16
    """One band where a block begins with fewer bins."""
    fir_kernel: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    init_scale: float = 1e-5
    norm: Literal["subband_grouped_batchnorm", "subband_grouped_framenorm"] = (
        "subband_grouped_batchnorm"
    )
    """The published norm, or one with statistics of each frame by itself, for training from scratch
    with JVPs.
    """
    activation: Literal["silu"] = "silu"
    decoupled_K: int = 0
    """Filters per channel of decoupled convolutions (arXiv 1808.05517); 0 is none."""

    def __post_init__(self) -> None:
        where = "network 'causal_ncsnpp'"
        check_ranges(
            self, f"{where}: ", nf=(-math.inf, WIDEST), ch_mult=(-math.inf, 256), num_res_blocks=(-math.inf, DEEPEST),
            input_freqs=(-math.inf, 65536), output_channels=(-math.inf, 64), fourier_scale=(0, 1e6),
            down_dilation=(-math.inf, 64), freq_groups=(-math.inf, 4096), decoupled_K=(0, WIDEST), init_scale=(0, 1e6),
        )  # fmt: skip
        for name in (
            "nf",
            "num_res_blocks",
            "input_freqs",
            "down_dilation",
            "freq_groups",
            "output_channels",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{where}: {name} {getattr(self, name)} must be 1 or more")
        if not self.ch_mult or len(self.ch_mult) > 16 or min(self.ch_mult) < 1:
            raise UserError(
                f"{where}: ch_mult {list(self.ch_mult)} must be one positive number per level"
            )
        if self.input_channels not in (2, 4, 6):
            raise UserError(
                f"{where}: input_channels {self.input_channels} is not 2 (predictor), 4 or 6 (with a predictor in front)"
            )
        if self.input_freqs % 2 ** (len(self.ch_mult) - 1):
            raise UserError(
                f"{where}: {self.input_freqs} bins cannot be halved {len(self.ch_mult) - 1} times; take fewer levels"
            )

    @property
    def statistics(self) -> Literal["batch", "frame"]:
        return "batch" if self.norm == "subband_grouped_batchnorm" else "frame"
