"""Layers of the 1-D U-Nets, with the originals' state-dict names (arXiv 2309.03199;
CosyVoice 2, arXiv 2412.10117).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.LayerNorm):
    """Layer norm over the last axis, written out: the fused one cannot be differentiated in forward
    mode under ``torch.compile``.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        centred = input - input.mean(-1, keepdim=True)
        return (
            centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
            + self.bias
        )


class GroupedNorm(nn.GroupNorm):
    """Group norm of ``(b, c, n)``, written out for the same reason."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        grouped = input.unflatten(1, (self.num_groups, -1))
        centred = grouped - grouped.mean((2, 3), keepdim=True)
        normal = centred * (centred.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return normal.flatten(1, 2) * self.weight[:, None] + self.bias[:, None]


class SinusoidMLP(nn.Module):
    """t (b,) -> (b, width): ``sin`` and ``cos`` of ``1000 t f_i`` with ``f_i =
    10000^(-i/(features/2 - 1))``, and a two-layer network.
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.features = features
        self.linear_1, self.linear_2 = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        dtype = torch.promote_types(t.dtype, torch.float32)
        half = self.features // 2
        rates = torch.exp(
            torch.arange(half, device=t.device, dtype=dtype) * -(math.log(10000) / (half - 1))
        )
        # in this order: angles reach 10^3, where rounding shows
        angle = 1000 * t.to(dtype)[:, None] * rates
        features = torch.cat([angle.sin(), angle.cos()], -1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(features)))


class CausalConv(nn.Conv1d):
    """Convolution of ``(b, c, n)`` that sees no later frame."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(F.pad(input, (self.kernel_size[0] - 1, 0)))


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def frame_conv(channels: int, causal: bool) -> nn.Conv1d:
    """A convolution over three frames."""
    return (
        CausalConv(channels, channels, 3) if causal else nn.Conv1d(channels, channels, 3, padding=1)
    )


class ConvBlock(nn.Module):
    """Convolution over three frames, norm (per frame if causal, else 8 groups over all frames),
    Mish; masked before and after.
    """

    def __init__(self, inputs: int, outputs: int, causal: bool):
        super().__init__()
        if causal:
            self.block = nn.Sequential(
                CausalConv(inputs, outputs, 3), _Transpose(), Norm(outputs), _Transpose(), nn.Mish()
            )
        else:
            self.block = nn.Sequential(
                nn.Conv1d(inputs, outputs, 3, padding=1), GroupedNorm(8, outputs), nn.Mish()
            )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.block(x * mask) * mask


class ResidualBlock(nn.Module):
    """Two ``ConvBlock``s with the time embedding added between them, and a 1 x 1 convolution
    beside; x (b, c, n), time (b, width).
    """

    def __init__(self, inputs: int, outputs: int, width: int, causal: bool):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(width, outputs))
        self.block1, self.block2 = (
            ConvBlock(inputs, outputs, causal),
            ConvBlock(outputs, outputs, causal),
        )
        self.res_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        h = self.block1(x, mask) + self.mlp(time)[:, :, None]
        return self.block2(h, mask) + self.res_conv(x * mask)


class Attention(nn.Module):
    """Self-attention of ``(b, n, c)``; queries, keys and values without bias."""

    def __init__(self, channels: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, inner, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels), nn.Dropout(dropout)])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask: broadcasts to (b, heads, n, n); bool (True is seen) or added to the scores."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.to_out[1](self.to_out[0](out))


class _Expand(nn.Module):
    """The first layer of a feed-forward with its activation; gated ones project to twice the
    width.
    """

    def __init__(self, channels: int, inner: int, activation: str):
        super().__init__()
        self.activation = activation
        self.proj = nn.Linear(channels, 2 * inner if activation == "geglu" else inner)
        if activation == "snakebeta":
            self.alpha, self.beta = (
                nn.Parameter(torch.zeros(inner)),
                nn.Parameter(torch.zeros(inner)),
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        match self.activation:
            case "gelu":
                return F.gelu(x)
            case "gelu-approximate":
                return F.gelu(x, approximate="tanh")
            case "geglu":
                value, gate = x.chunk(2, -1)
                return value * F.gelu(gate)
            case "geglu-approximate":
                return x * torch.sigmoid(1.702 * x)
            case _:  # snakebeta: both parameters are logarithms
                return x + (x * self.alpha.exp()).sin().square() / (self.beta.exp() + 1e-9)


class FeedForward(nn.Module):
    """To four times the width and back."""

    def __init__(self, channels: int, activation: str, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            _Expand(channels, 4 * channels, activation),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each after a norm and with a residual; x (b, n, c)."""

    def __init__(self, channels: int, heads: int, head_dim: int, activation: str, dropout: float):
        super().__init__()
        self.norm1, self.norm3 = Norm(channels), Norm(channels)
        self.attn1 = Attention(channels, heads, head_dim, dropout)
        self.ff = FeedForward(channels, activation, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


class Halve(nn.Module):
    """Half the frames: ``(b, c, n) -> (b, c, ceil(n / 2))``."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Double(nn.Module):
    """Twice the frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
