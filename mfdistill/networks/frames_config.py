"""Sizes of the frame network, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.networks.config import DEEPEST, WIDEST


@dataclass(frozen=True)
class FramesSizes:
    """What is chosen freely."""

    channels: int = 160
    blocks: int = 6
    expansion: int = 2
    """Of the channels inside a block."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Of the blocks' convolutions over frames, in turn."""
    attention: int = 0
    """Every so many blocks are followed by self-attention over all frames; 0 is none."""
    heads: int = 4
    embedding: int = 128
    """Of time, speaker and prompt."""
    symbol: int = 64
    """Width of the embedding of units or characters."""

    def __post_init__(self) -> None:
        check_ranges(
            self, "network 'frames': ", channels=(1, WIDEST), blocks=(0, DEEPEST), expansion=(1, 64), dilations=(1, WIDEST),
            attention=(0, DEEPEST), heads=(1, 256), embedding=(2, WIDEST), symbol=(1, WIDEST),
        )  # fmt: skip
        if not self.dilations:
            raise UserError("network 'frames': dilations: needs one or more")
        if self.attention and (self.channels % self.heads or self.channels // self.heads % 2):
            raise UserError(
                f"frames.channels={self.channels}: needs an even multiple of heads={self.heads} for attention"
            )


@dataclass(frozen=True)
class FramesConfig(FramesSizes):
    """Network 'frames'; the rest follows from the task."""

    mels: int = 80
    vocabulary: int = 256
    """Number of symbols: units of all levels and pitches, or characters."""
    speaker: int = 256
    """Width of the speaker embedding; 0 is none."""
    coarse: bool = False
    """The condition has a coarse spectrogram ``mu``, which the data are near."""
    residual_std: float = 1.0
    """Of the data around it, for the network's preconditioning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, "network 'frames': ", mels=(1, 4096), vocabulary=(1, 2**20), speaker=(0, WIDEST), residual_std=(0, 1e6)
        )  # fmt: skip
