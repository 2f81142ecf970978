"""Sizes of the transformers that other systems published, under their own names; the defaults are
the published models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.networks.config import DEEPEST, WIDEST


def _check_heads(
    where: str, dim: int, depth: int, heads: int, dim_head: int, pe_attn_head: int | None
) -> None:
    for name, value in (("dim", dim), ("depth", depth), ("heads", heads), ("dim_head", dim_head)):
        if value < 1:
            raise UserError(f"{where}: {name} {value} must be 1 or more")
    if dim % 16:
        raise UserError(
            f"{where}: dim {dim} must be a multiple of 16, the groups of its position convolutions"
        )
    if dim_head % 2:
        raise UserError(
            f"{where}: dim_head {dim_head} must be even, as channels are rotated in pairs"
        )
    if pe_attn_head is not None and not 0 <= pe_attn_head <= heads:
        raise UserError(
            f"{where}: pe_attn_head {pe_attn_head} must be null (all heads) or from 0 to {heads}"
        )


@dataclass(frozen=True)
class F5Config:
    """An F5-TTS ``DiT``; the defaults are F5TTS_v1_Base (337 M parameters). The older Base and
    Small models have ``text_mask_padding`` false and ``pe_attn_head`` 1.
    """

    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: float = 2
    mel_dim: int = 100
    text_num_embeds: int = 2545
    """Vocabulary; the table has one more row, the filler's."""
    text_dim: int | None = 512
    """Width of the text embedding; null: ``mel_dim``."""
    conv_layers: int = 4
    """ConvNeXt blocks on the text."""
    text_mask_padding: bool = True
    """Filler positions are zeroed around every block on the text."""
    text_embedding_average_upsampling: bool = False
    """The text is spread evenly over the frames after its blocks (ZipVoice's way); needs
    ``text_mask_padding``.
    """
    pe_attn_head: int | None = None
    """Heads that are rotated; null: all."""
    qk_norm: Literal["rms_norm"] | None = None
    attn_mask_enabled: bool = False
    """Padded frames are not attended to; without, they are."""
    long_skip_connection: bool = False
    dropout: float = 0.0
    """0.1 in the original's training. None here unless asked for: a student begins as its teacher,
    which has none.
    """
    checkpoint_activations: bool = False
    attn_backend: str = "torch"
    """Of the original; both of its values compute the same."""

    def __post_init__(self) -> None:
        where = "network 'f5'"
        check_ranges(
            self, f"{where}: ", dim=(-math.inf, WIDEST), depth=(-math.inf, DEEPEST), heads=(-math.inf, 1024),
            dim_head=(-math.inf, WIDEST), ff_mult=(0.01, 64), mel_dim=(1, WIDEST), dropout=(0, 1),
            conv_layers=(0, DEEPEST), text_num_embeds=(1, 2**22), text_dim=(-math.inf, WIDEST),
        )  # fmt: skip
        _check_heads(where, self.dim, self.depth, self.heads, self.dim_head, self.pe_attn_head)
        _check_text(where, self.text_width, self.conv_layers)
        if self.text_embedding_average_upsampling and not self.text_mask_padding:
            raise UserError(f"{where}: text_embedding_average_upsampling needs text_mask_padding")

    @property
    def text_width(self) -> int:
        return self.mel_dim if self.text_dim is None else self.text_dim


@dataclass(frozen=True)
class F5UNetTConfig:
    """An F5-TTS ``UNetT``; the defaults are E2TTS_Base (333 M parameters). Names as in
    ``F5Config``.
    """

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    dim_head: int = 64
    ff_mult: float = 4
    mel_dim: int = 100
    text_num_embeds: int = 2545
    text_dim: int | None = None
    conv_layers: int = 0
    text_mask_padding: bool = False
    pe_attn_head: int | None = 1
    qk_norm: Literal["rms_norm"] | None = None
    attn_mask_enabled: bool = False
    skip_connect_type: Literal["concat", "add", "none"] = "concat"
    """How the second half of the layers is joined to the first."""
    dropout: float = 0.0
    attn_backend: str = "torch"

    def __post_init__(self) -> None:
        where = "network 'f5_unett'"
        check_ranges(
            self, f"{where}: ", dim=(-math.inf, WIDEST), depth=(-math.inf, DEEPEST), heads=(-math.inf, 1024),
            dim_head=(-math.inf, WIDEST), ff_mult=(0.01, 64), mel_dim=(1, WIDEST), dropout=(0, 1),
            conv_layers=(0, DEEPEST), text_num_embeds=(1, 2**22), text_dim=(-math.inf, WIDEST),
        )  # fmt: skip
        _check_heads(where, self.dim, self.depth, self.heads, self.dim_head, self.pe_attn_head)
        _check_text(where, self.text_width, self.conv_layers)
        if self.depth % 2:
            raise UserError(
                f"{where}: depth {self.depth} must be even, as the second half of the layers mirrors the first"
            )

    @property
    def text_width(self) -> int:
        return self.mel_dim if self.text_dim is None else self.text_dim


@dataclass(frozen=True)
class CausalDiTConfig:
    """The causal ``DiT`` of CosyVoice 3; the defaults are the published 0.5B model's (331 M
    parameters).
    """

    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: float = 2
    mel_dim: int = 80
    mu_dim: int | None = 80
    """Channels of ``mu``; null: ``mel_dim``."""
    spk_dim: int | None = 80
    """Channels of ``spks``; null: no speaker."""
    out_channels: int | None = 80
    """Of the original, which does not use it: the output has ``mel_dim`` channels."""
    static_chunk_size: int = 50
    """Frames per chunk when streaming; 0: the whole."""
    num_decoding_left_chunks: int = -1
    """Of the original, which does not use it: streaming sees all chunks to the left."""
    long_skip_connection: bool = False
    dropout: float = 0.0
    """As ``F5Config``."""

    def __post_init__(self) -> None:
        where = "network: a causal DiT's config"
        check_ranges(
            self, f"{where}: ", dim=(-math.inf, WIDEST), depth=(-math.inf, DEEPEST), heads=(-math.inf, 1024),
            dim_head=(-math.inf, WIDEST), ff_mult=(0.01, 64), mel_dim=(1, WIDEST), dropout=(0, 1),
            mu_dim=(0, WIDEST), spk_dim=(0, WIDEST), static_chunk_size=(-math.inf, 65536),
        )  # fmt: skip
        _check_heads(where, self.dim, self.depth, self.heads, self.dim_head, None)
        if self.static_chunk_size < 0:
            raise UserError(
                f"{where}: static_chunk_size {self.static_chunk_size} must be 0 or more frames"
            )


def _check_text(where: str, text_dim: int, conv_layers: int) -> None:
    if text_dim < 1 or (conv_layers > 0 and text_dim % 2):
        raise UserError(
            f"{where}: text_dim {text_dim} must be positive, and even where the text has blocks (conv_layers {conv_layers})"
        )
