"""Sizes of the 1-D U-Nets of text-to-speech systems such as CosyVoice, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.networks.config import DEEPEST, WIDEST

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "snakebeta")


@dataclass(frozen=True)
class MelUNetConfig:
    """A ``MelUNet``, under the originals' own names; the defaults are the published CosyVoice2
    flow (71.3 M parameters).
    """

    in_channels: int = 320
    """Of state, mu, speaker and prompt Mel side by side; also the width of the time features."""
    out_channels: int = 80
    """Mel bands."""
    channels: tuple[int, ...] = (256,)
    """Of each resolution; every next one has half the frames. CosyVoice2 has one resolution."""
    dropout: float = 0.0
    attention_head_dim: int = 64
    n_blocks: int = 4
    """Transformer blocks of each stage."""
    num_mid_blocks: int = 12
    num_heads: int = 8
    act_fn: str = "gelu"
    """Of the feed-forward layers, one of ``ACTIVATIONS``."""
    static_chunk_size: int = 50
    """Frames of a chunk in streaming form; 0 is none."""
    num_decoding_left_chunks: int = -1
    """Kept as it is in the file; the original attends to all left chunks whatever it says, and so
    does this.
    """
    causal: bool = True
    """Convolutions see no later frame, norms none at all; else group norms over the utterance
    (the first one, arXiv 2309.03199, and CosyVoice 1).
    """
    soft_mask: bool = False
    """As the first of them has it: the mask is added to the attention's scores (valid frames 1,
    others 0) and ``cond`` is not read.
    """

    def __post_init__(self) -> None:
        where = "network: a Mel U-Net's config"
        check_ranges(
            self, f"{where}: ", in_channels=(-math.inf, WIDEST), out_channels=(-math.inf, WIDEST), channels=(-math.inf, WIDEST),
            dropout=(0, 1), attention_head_dim=(-math.inf, WIDEST), n_blocks=(-math.inf, DEEPEST),
            num_mid_blocks=(-math.inf, DEEPEST), num_heads=(-math.inf, 1024), static_chunk_size=(0, 65536),
        )  # fmt: skip
        if (
            not self.channels
            or len(self.channels) > 64
            or min(self.channels) < 1
            or self.in_channels < 4
            or self.in_channels % 2
        ):
            raise UserError(
                f"{where}: needs one or more channels, and in_channels an even number of 4 or more"
            )
        if not self.causal and any(width % 8 for width in self.channels):
            raise UserError(
                f"{where}: channels {list(self.channels)} must be multiples of 8, the group norms' number of groups"
            )
        if (
            min(self.n_blocks, self.num_mid_blocks) < 0
            or min(self.out_channels, self.num_heads, self.attention_head_dim) < 1
        ):
            raise UserError(f"{where}: a number of blocks, heads or channels is too small")
        if self.act_fn not in ACTIVATIONS:
            raise UserError(
                f"{where}: act_fn '{self.act_fn}' is not one of {', '.join(ACTIVATIONS)}"
            )
