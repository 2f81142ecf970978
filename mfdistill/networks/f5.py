"""F5-TTS's networks, DiT and UNetT, under their own names of weights, and the adapter to
``network(z_t, t, cond)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.condition import need
from mfdistill.networks.dit import (
    Attention,
    ConvPosition,
    DiTBlock,
    FeedForward,
    FinalNorm,
    Rotary,
    SinusoidTime,
)
from mfdistill.networks.dit_config import F5Config, F5UNetTConfig
from mfdistill.networks.f5_text import TextEmbedding
from mfdistill.networks.recompute import recompute_activations

_UNETT_POSITIONS = 4096  # the original's table of text positions


class InputEmbedding(nn.Module):
    """State, prompt and text in one layer, plus positions by convolution."""

    def __init__(self, mel_dim: int, text_dim: int, dim: int):
        super().__init__()
        self.proj = nn.Linear(2 * mel_dim + text_dim, dim)
        self.conv_pos_embed = ConvPosition(dim)

    def forward(self, z: Tensor, cond: Tensor, text: Tensor, valid: Tensor | None = None) -> Tensor:
        x = self.proj(torch.cat([z, cond, text], -1))
        return self.conv_pos_embed(x, valid) + x


class DiT(nn.Module):
    """State, prompt (b, n, mel_dim), text (b, nt) -> velocity (b, n, mel_dim)."""

    shard_units = ("DiTBlock",)

    def __init__(self, config: F5Config):
        super().__init__()
        c = self.config = config
        self.time_embed = SinusoidTime(c.dim)
        self.text_embed = TextEmbedding(
            c.text_num_embeds,
            c.text_width,
            c.conv_layers,
            c.text_mask_padding,
            c.text_embedding_average_upsampling,
        )
        self.input_embed = InputEmbedding(c.mel_dim, c.text_width, c.dim)
        self.rotary_embed = Rotary(c.dim_head)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(c.dim, c.heads, c.dim_head, c.ff_mult, c.pe_attn_head, c.qk_norm, c.dropout)
            for _ in range(c.depth)
        )
        self.long_skip_connection = (
            nn.Linear(2 * c.dim, c.dim, bias=False) if c.long_skip_connection else None
        )
        self.norm_out = FinalNorm(c.dim)
        self.proj_out = nn.Linear(c.dim, c.mel_dim)
        if c.checkpoint_activations:
            recompute_activations(self)

    def forward(
        self,
        z: Tensor,
        cond: Tensor,
        text: Tensor,
        t: Tensor,
        mask: Tensor | None,
        drop_text: Tensor | None,
    ) -> Tensor:
        n, time = z.shape[1], self.time_embed(t)
        # the original lays the text on the first so many frames, wherever the mask has them
        first = (
            None if mask is None else torch.arange(n, device=z.device) < mask.sum(1, keepdim=True)
        )
        x = self.input_embed(z, cond, self.text_embed(text, n, first, drop_text), mask)
        angle, residual = self.rotary_embed(n), x
        attend = mask[:, None, None] if mask is not None and self.config.attn_mask_enabled else None
        for block in self.transformer_blocks:
            x = block(x, time, angle, mask, attend)
        if self.long_skip_connection is not None:
            x = self.long_skip_connection(torch.cat([x, residual], -1))
        return self.proj_out(self.norm_out(x, time))


class UnitRMSNorm(nn.Module):
    """Unit vectors times the root of their length and a learned gain ``g``."""

    def __init__(self, dim: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.g


class UNetT(nn.Module):
    """E2-TTS's flat U-Net of transformer layers; arguments as ``DiT``. Time is one more token, in
    front.
    """

    def __init__(self, config: F5UNetTConfig):
        super().__init__()
        c = self.config = config
        self.time_embed = SinusoidTime(c.dim)
        self.text_embed = TextEmbedding(
            c.text_num_embeds,
            c.text_width,
            c.conv_layers,
            c.text_mask_padding,
            last_position=_UNETT_POSITIONS - 1,
        )
        self.input_embed = InputEmbedding(c.mel_dim, c.text_width, c.dim)
        self.rotary_embed = Rotary(c.dim_head)
        self.layers = nn.ModuleList()
        for layer in range(c.depth):
            joined = c.skip_connect_type == "concat" and layer >= c.depth // 2
            attention = Attention(c.dim, c.heads, c.dim_head, c.pe_attn_head, c.qk_norm, c.dropout)
            parts = [
                UnitRMSNorm(c.dim),
                attention,
                UnitRMSNorm(c.dim),
                FeedForward(c.dim, c.ff_mult, c.dropout),
            ]
            self.layers.append(
                nn.ModuleList(
                    [nn.Linear(2 * c.dim, c.dim, bias=False) if joined else nn.Identity(), *parts]
                )
            )
        self.norm_out = UnitRMSNorm(c.dim)
        self.proj_out = nn.Linear(c.dim, c.mel_dim)

    def forward(
        self,
        z: Tensor,
        cond: Tensor,
        text: Tensor,
        t: Tensor,
        mask: Tensor | None,
        drop_text: Tensor | None,
    ) -> Tensor:
        n = z.shape[1]
        # unlike DiT it does not mask its input
        x = self.input_embed(z, cond, self.text_embed(text, n, None, drop_text))
        x = torch.cat([self.time_embed(t)[:, None], x], 1)
        valid = None if mask is None else F.pad(mask, (1, 0), value=True)
        attend = (
            valid[:, None, None] if valid is not None and self.config.attn_mask_enabled else None
        )
        angle, skips = self.rotary_embed(n + 1), []
        for layer, (join, attn_norm, attn, ff_norm, ff) in enumerate(self.layers):  # type: ignore[misc]
            if layer < len(self.layers) // 2:
                skips.append(x)
            elif self.config.skip_connect_type == "concat":
                x = join(torch.cat([x, skips.pop()], -1))
            elif self.config.skip_connect_type == "add":
                x = x + skips.pop()
            x = attn(attn_norm(x), angle, valid, attend) + x
            x = ff(ff_norm(x)) + x
        return self.proj_out(self.norm_out(x)[:, 1:])


class F5Network(nn.Module):
    """``network(z_t, t, cond) -> v`` in F5-TTS's layout (b, n, mels).

    ``cond``: "cond" (b, n, mels), the Mel spectrogram with all but the prompt set to 0; "text" (b,
    nt) integers, -1 where it has ended; "mask" (b, n) boolean, true on valid frames, or absent:
    then nothing is padding, which is not the same as a mask of ones. Optional "drop_audio",
    "drop_text" (b,) boolean: samples whose prompt or text is dropped, as in training and in the
    null branch of guidance.
    """

    time_embedding_name = "transformer.time_embed"

    def __init__(self, config: F5Config | F5UNetTConfig):
        super().__init__()
        self.config = config
        self.transformer = DiT(config) if isinstance(config, F5Config) else UNetT(config)

    def request(self, rows: int, length: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A state and a condition of so many rows and frames, random ones."""
        shape = (rows, length, self.config.mel_dim)
        text = torch.zeros(rows, max(1, length // 6), dtype=torch.long)
        mask = torch.ones(rows, length, dtype=torch.bool)
        return torch.randn(shape), {"cond": torch.randn(shape), "text": text, "mask": mask}

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (b, n, mels), t (b,) or (b, 2) stacked. Returns the shape of z_t.

        Raises:
            ValueError: prompt or text are missing.
        """
        need(cond, ("cond", "text"), f"cond {tuple(z_t.shape)} and text (b, symbols)")
        prompt, mask = cond["cond"], cond.get("mask")
        if (drop := cond.get("drop_audio")) is not None:
            prompt = prompt.masked_fill(drop.bool()[:, None, None], 0.0)
        drop_text = cond.get("drop_text")
        return self.transformer(
            z_t,
            prompt,
            cond["text"],
            t,
            None if mask is None else mask.bool(),
            None if drop_text is None else drop_text.bool(),
        )
