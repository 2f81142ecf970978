"""The compact velocity network: time-frequency structure at under 1 GMAC per second of speech, fast on a CPU.

Frequencies are gathered into bands by one strided convolution; a few residual blocks mix time (dilated 3 x 3 convolutions,
optionally one recurrence), bands (one matrix over all of them) and channels; the bands are spread again and three complex
masks come out, for the scaled state, the condition and a free term. What a linear-Gaussian model of the data would
answer is computed outside the network (see ``Preconditioning``), so that its capacity goes to what is left.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.config import CompactConfig
from mfdistill.networks.preconditioning import Preconditioning
from mfdistill.networks.time import TimeEmbedding, current_time


class FrameNorm(nn.Module):
    """Root-mean-square norm over the channels of one band in one frame: no statistic leaves the frame, so nothing leaks.

    Written out, because the fused layer norms cannot be differentiated in forward mode under ``torch.compile``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight


class FrameConv(nn.Module):
    """3 x 3 convolution over (frames, bands) of ``(b, n, f, c)``; causal: only past frames."""

    def __init__(self, inputs: int, outputs: int, dilation: int, causal: bool, bands: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (3, bands), stride=(1, stride), dilation=(dilation, 1))
        self.frames = (2 * dilation, 0) if causal else (dilation, dilation)
        self.bands = ((bands - stride + 1) // 2, (bands - stride) // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.permute(0, 3, 1, 2), (*self.bands, *self.frames))
        return self.conv(x).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Residual mixing of time and bands, then of channels; both halves are modulated by the time embedding (FiLM)."""

    def __init__(self, config: CompactConfig, dilation: int):
        super().__init__()
        c, bands = config.channels, config.freqs // config.band_stride
        self.modulation = nn.Linear(config.embedding, 4 * c)
        self.norm_1, self.norm_2 = FrameNorm(c), FrameNorm(c)
        self.conv = FrameConv(c, c, dilation, config.causal)
        self.mix_bands = nn.Linear(bands, bands)
        self.expand, self.reduce = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = self.modulation(e)[:, None, None].chunk(4, -1)
        h = self.norm_1(x) * (1 + scale_1) + shift_1
        h = F.silu(self.conv(h))
        x = x + h + self.mix_bands(h.transpose(-1, -2)).transpose(-1, -2)
        h = self.norm_2(x) * (1 + scale_2) + shift_2
        return x + self.reduce(F.silu(self.expand(h)))


class Recurrence(nn.Module):
    """A GRU along the frames of every band (weights shared by the bands), for memory beyond the convolutions."""

    def __init__(self, config: CompactConfig):
        super().__init__()
        directions = 1 if config.causal else 2
        self.norm = FrameNorm(config.channels)
        self.gru = nn.GRU(config.channels, config.recurrent, batch_first=True, bidirectional=not config.causal)
        self.out = nn.Linear(config.recurrent * directions, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, f, c = x.shape
        h, _ = self.gru(self.norm(x).transpose(1, 2).reshape(b * f, n, c))
        return x + self.out(h).reshape(b, f, n, c).transpose(1, 2)


class CompactNet(nn.Module):
    """``forward(z_t, t, cond) -> v``: ``z_t`` and ``cond["y"]`` are ``(b, 2, f, n)``, t is ``(b,)`` or the stacked pair [t, r]."""

    time_embedding_name = "time_embedding"

    def __init__(self, config: CompactConfig):
        super().__init__()
        self.config = config
        c, s = config.channels, config.band_stride
        self.time_embedding = TimeEmbedding(config.embedding)
        self.preconditioning = Preconditioning(config)
        self.encode = FrameConv(6, c, 1, config.causal, bands=2 * s, stride=s)
        self.position = nn.Parameter(0.02 * torch.randn(config.freqs // s, c))
        self.blocks = nn.ModuleList(Block(config, config.dilations[i % len(config.dilations)]) for i in range(config.blocks))
        self.recurrence = Recurrence(config) if config.recurrent else None
        self.norm = FrameNorm(c)
        self.decode = FrameConv(c, 6 * s, 1, config.causal)

    def forward(self, z_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        e = F.silu(self.time_embedding(t))
        state, answer, scale = self.preconditioning(z_t, current_time(t), cond["y"])
        y, level = self.preconditioning.normalise(cond["y"])
        inputs = torch.cat([state, y, cond["y"].norm(dim=1, keepdim=True), level], 1).permute(0, 3, 2, 1)      # (b, n, f, 6)
        h = self.encode(inputs) + self.position
        for i, block in enumerate(self.blocks):
            if self.recurrence is not None and i == (len(self.blocks) + 1) // 2:
                h = self.recurrence(h)
            h = block(h, e)
        h = self.decode(self.norm(h))
        b, n, _, _ = h.shape
        masks = h.reshape(b, n, self.config.freqs, 6).permute(0, 3, 2, 1)
        free, mask_state, mask_y = masks.chunk(3, 1)
        return answer + scale * (free + _product(mask_state, state) + _product(mask_y, y))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of two pairs of real channels ``(b, 2, f, n)``."""
    a_re, a_im = a.unbind(1)
    b_re, b_im = b.unbind(1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], 1)
