"""Time embeddings of the NCSN++ family: log-time Fourier features, and MeanFlowSE's second branch
for the length of the interval.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fourier(nn.Module):
    """``(b,) -> (b, 2 n)``: sines and cosines of ``2 pi v W``, W drawn ``scale N(0, 1)`` once; a
    parameter without gradient, as the original keeps it in its state dict and its averages.
    """

    def __init__(self, n: int, scale: float):
        super().__init__()
        self.W = nn.Parameter(scale * torch.randn(n), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        # in this order: angles reach 10^3, where rounding shows
        angle = value[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], -1)


class NoisinessEmbedding(nn.Module):
    """t (b,) on our clock -> (b, 4 nf): a two-layer network on Fourier features of ``log(1 - t)``
    (or of ``1 - t``), NCSN++'s.

    Args:
        nf: base width. scale: of the Fourier frequencies (16 in all published checkpoints). log: of
            the time.
        floor: smallest ``1 - t``; the logarithm of 0 would make every later product NaN.
    """

    def __init__(self, nf: int, scale: float = 16.0, log: bool = True, floor: float = 1e-4):
        super().__init__()
        self.log, self.floor = log, floor
        self.fourier = Fourier(nf, scale)
        self.linear_1, self.linear_2 = nn.Linear(2 * nf, 4 * nf), nn.Linear(4 * nf, 4 * nf)
        for linear in (self.linear_1, self.linear_2):
            fan_average(linear)

    def forward(self, t: Tensor) -> Tensor:
        # the difference in the precision of the time that was given, the logarithm in that of the
        # weights
        value = (1 - t).to(self.fourier.W.dtype)
        if self.log:
            value = value.clamp(min=self.floor).log()
        return self.linear_2(F.silu(self.linear_1(self.fourier(value))))


class OwnInterval(nn.Module):
    """A time embedding that embeds stacked pairs [t, r] (b, 2) itself, as well as times (b,)."""


class DeltaEmbedding(OwnInterval):
    """Embeds a stacked pair [t, r] as ``E(t) + MLP(Fourier(log1p(r - t)))`` (MeanFlowSE, arXiv
    2509.14858); r itself is not embedded.

    The last layer starts at zero, so that a network using it answers as it did before, for every r.

    Args:
        embedding: E, maps (b,) to (b, width); kept as a submodule, its keys under ``embedding.``.
        width: of what E gives, a multiple of 4. scale: of the Fourier frequencies.
    """

    def __init__(self, embedding: nn.Module, width: int, scale: float = 16.0):
        super().__init__()
        self.embedding = embedding
        self.fourier = Fourier(width // 4, scale)
        self.linear_1, self.linear_2 = nn.Linear(2 * (width // 4), width), nn.Linear(width, width)
        fan_average(self.linear_1)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, time: Tensor) -> Tensor:
        """time (b, 2) stacked [t, r], or (b,) for r = t. Returns (b, width)."""
        t, r = time.unbind(-1) if time.ndim == 2 else (time, time)
        d = (r - t).to(self.fourier.W.dtype)
        # not clamp: at r = t its derivative is 1 in torch 2.11 and 0 in 2.14, and what is wanted
        # is that of r > t
        d = torch.where(d < 0, torch.zeros_like(d), d)
        return self.embedding(t) + self.linear_2(F.silu(self.linear_1(self.fourier(d.log1p()))))


def fan_average(layer: nn.Linear | nn.Conv2d, scale: float = 1.0) -> None:
    """``U(-a, a)`` with ``a = sqrt(3 scale / mean(fan_in, fan_out))`` and no bias, NCSN++'s start;
    scale 0 stands for 1e-10.
    """
    field = layer.weight[0, 0].numel() if layer.weight.ndim > 2 else 1
    fans = field * (layer.weight.shape[0] + layer.weight.shape[1]) / 2
    bound = math.sqrt(3 * (scale or 1e-10) / fans)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
