"""The frame network of Mel tasks: residual convolutions over frames (and self-attention, if asked
for), modulated by time, speaker, prompt.

State and condition of Mel tasks (``mfdistill.tasks.mel``) are ``(b, 1, mels, n)``. Every operation
can be differentiated in forward mode.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.networks.dit import rotate
from mfdistill.networks.frames_config import FramesConfig
from mfdistill.networks.time import TimeEmbedding, current_time


class RMSNorm(nn.Module):
    """Over the channels of one frame, written out: fused norms have no forward-mode rule under
    ``torch.compile``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight


class FrameBlock(nn.Module):
    """``(b, n, c)``: a dilated convolution over frames, then two layers per frame; both halves are
    modulated (FiLM).
    """

    def __init__(self, config: FramesConfig, dilation: int):
        super().__init__()
        c = config.channels
        self.modulation = nn.Linear(config.embedding, 4 * c)
        self.norm_1, self.norm_2 = RMSNorm(c), RMSNorm(c)
        self.conv = nn.Conv1d(c, c, 3, padding=dilation, dilation=dilation)
        self.expand, self.reduce = (
            nn.Linear(c, config.expansion * c),
            nn.Linear(config.expansion * c, c),
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor, valid: Tensor) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = self.modulation(e)[:, None].chunk(4, -1)
        # padding looks as the outside of the signal does
        h = (self.norm_1(x) * (1 + scale_1) + shift_1) * valid
        x = x + F.silu(self.conv(h.transpose(1, 2)).transpose(1, 2))
        h = self.norm_2(x) * (1 + scale_2) + shift_2
        return x + self.reduce(F.silu(self.expand(h)))


class FrameAttention(nn.Module):
    """Self-attention over the valid frames with rotary positions; the softmax is written out, since
    fused attention has no forward mode.
    """

    def __init__(self, config: FramesConfig):
        super().__init__()
        self.heads = config.heads
        self.norm = RMSNorm(config.channels)
        self.qkv, self.out = (
            nn.Linear(config.channels, 3 * config.channels),
            nn.Linear(config.channels, config.channels),
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        width = q.shape[-1]
        wide = torch.promote_types(x.dtype, torch.float32)
        rates = 10000.0 ** (-torch.arange(0, width, 2, device=x.device, dtype=wide) / width)
        angle = (torch.arange(x.shape[1], device=x.device)[:, None] * rates).repeat_interleave(
            2, -1
        )
        scores = rotate(q, angle) @ rotate(k, angle).transpose(-1, -2) * width**-0.5
        scores = scores.masked_fill(valid.transpose(1, 2)[:, None] == 0, -1e4)
        return x + self.out(
            (scores.to(wide).softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(-2)
        )


class FramesNet(nn.Module):
    """``forward(z_t, t, cond) -> v``, both ``(b, 1, mels, n)``, t ``(b,)`` or the stacked pair [t,
    r].

    ``cond``: ``y`` (b, 1, mels, n) the prompt's Mel, 0 elsewhere; ``prompt`` and ``mask`` (b, 1, 1,
    n), 1 on the prompt's and on all valid frames; ``units`` (b, n) the character of every frame, or
    (b, n, k) all that its unit consists of; ``speaker`` (b, 256), if ``config.speaker`` is not 0;
    ``mu`` (b, 1, mels, n), if ``config.coarse``.

    The answer of independent data of mean mu (0 where there is none) and deviation s
    (``config.residual_std``), ``mu + (s^2 t - (1 - t)) (z - t mu) / D`` with ``D = (1 - t)^2 + s^2
    t^2``, is computed outside the layers, and what they add is scaled by the deviation that it
    leaves, ``s D^-1/2``: so their output is near unit size at every t.
    """

    time_embedding_name = "time_embedding"

    def __init__(self, config: FramesConfig):
        super().__init__()
        self.config = config
        c, e = config.channels, config.embedding
        self.time_embedding = TimeEmbedding(e)
        self.symbols = nn.Embedding(config.vocabulary, config.symbol)
        self.speaker = nn.Linear(config.speaker, e) if config.speaker else None
        self.timbre = nn.Linear(2 * config.mels + 1, e)
        self.encode = nn.Linear((3 if config.coarse else 2) * config.mels + 1 + config.symbol, c)
        self.blocks = nn.ModuleList(
            FrameBlock(config, config.dilations[i % len(config.dilations)])
            for i in range(config.blocks)
        )
        every = config.attention
        self.attentions = nn.ModuleDict(
            {
                str(i): FrameAttention(config)
                for i in range(config.blocks)
                if every and i % every == every - 1
            }
        )
        self.norm = RMSNorm(c)
        self.decode = nn.Linear(c, config.mels)
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        # (b, n, mels)
        z, y = (value[:, 0].transpose(1, 2) for value in (z_t, cond["y"]))
        prompt, valid = (cond[key][:, 0, 0, :, None].to(z.dtype) for key in ("prompt", "mask"))
        now = current_time(t)[:, None, None].to(z.dtype)
        s = self.config.residual_std
        mu = [cond["mu"][:, 0].transpose(1, 2)] if self.config.coarse else []
        z = z - now * mu[0] if mu else z
        spread = (1 - now).square() + s**2 * now.square()
        e = self.time_embedding(t) + self.timbre(_summary(y, prompt))
        if self.speaker is not None:
            # unit vectors of 256 entries, to entries near 1
            e = e + self.speaker(cond["speaker"] * 16)
        e = F.silu(e)
        said = self.symbols(cond["units"])
        said = said.sum(-2) if said.ndim == 4 else said
        h = self.encode(torch.cat([z * spread.rsqrt(), y, *mu, prompt, said], -1))
        for i, block in enumerate(self.blocks):
            h = block(h, e, valid)
            if str(i) in self.attentions:
                h = self.attentions[str(i)](h, valid)
        out = self.decode(self.norm(h)).to(z.dtype)
        v = (s**2 * now - (1 - now)) / spread * z + s * spread.rsqrt() * out
        v = v + mu[0] if mu else v
        return v.transpose(1, 2)[:, None]


def _summary(y: Tensor, prompt: Tensor) -> Tensor:
    """(b, 2 mels + 1): mean and deviation of the prompt over its frames, and whether there is
    one.
    """
    count = prompt.sum(1).clamp(min=1)
    mean = (y * prompt).sum(1) / count
    deviation = (((y - mean[:, None]) * prompt).square().sum(1) / count + 1e-5).sqrt()
    there = (prompt.sum(1) > 0).to(y.dtype)
    return torch.cat([mean, deviation * there, there], -1)
