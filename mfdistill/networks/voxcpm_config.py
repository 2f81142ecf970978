"""Sizes of VoxCPM's local flow head."""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.networks.config import DEEPEST, WIDEST


@dataclass(frozen=True)
class VoxCPMConfig:
    """VoxCPM's flow head over patches of latents; the defaults are its code's, what a checkpoint
    has is in its ``config.json``.
    """

    feat_dim: int = 64
    """Latents per frame."""
    patch_size: int = 2
    """Frames of a patch, which is made by itself."""
    hidden_dim: int = 1024
    ffn_dim: int = 4096
    num_heads: int = 16
    num_layers: int = 4
    kv_channels: int | None = None
    """Width of a head; null: ``hidden_dim / num_heads``."""
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-5
    residual_scale: float = 1.0
    """Of what every layer adds."""
    rope_theta: float = 10000.0
    rope_factors: tuple[float, ...] = ()
    """By which frequencies are divided, one per pair of channels; empty: all 1."""
    rope_gain: float = 1.0
    """Of the rotated queries and keys."""
    rope: bool = True
    hidden_tokens: int = 1
    """The language model's hidden vectors per patch: VoxCPM's one, which the time is added to, or
    VoxCPM2's two, which it follows.
    """

    def __post_init__(self) -> None:
        where = "network 'voxcpm'"
        check_ranges(
            self, f"{where}: ", feat_dim=(1, WIDEST), patch_size=(1, 4096), hidden_dim=(4, WIDEST), ffn_dim=(1, WIDEST),
            num_heads=(1, 1024), num_layers=(1, DEEPEST), kv_channels=(2, WIDEST), num_key_value_heads=(1, 1024),
            rms_norm_eps=(0, 1), residual_scale=(0, 1e3), rope_theta=(1, 1e9), rope_factors=(1e-6, 1e6),
            rope_gain=(0, 1e3), hidden_tokens=(1, 64),
        )  # fmt: skip
        if self.num_heads % self.num_key_value_heads or self.hidden_dim % 2:
            raise UserError(
                f"{where}: num_heads {self.num_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}, and hidden_dim even"
            )
        if self.head % 2 or (self.rope_factors and len(self.rope_factors) != self.head // 2):
            raise UserError(
                f"{where}: heads of {self.head} channels must be even, with {self.head // 2} rope_factors or none"
            )

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.kv_channels or self.hidden_dim // self.num_heads
