"""The pieces that the transformers of F5-TTS (arXiv 2410.06885) and CosyVoice 3 (arXiv 2505.17589)
share, with their names of weights.

Sequences are (b, n, d). What a block is told beside its input: the time embedding (b, d); rotary
angles (n, dim_head); ``valid`` (b, n), the frames whose attention output is kept; ``attend`` (b, 1,
1 or n, n), the keys that a query sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SinusoidTime(nn.Module):
    """Times (b,) -> (b, dim): ``sin(1000 t s_i), cos(1000 t s_i)``, in the precision of ``t``,
    through two layers.
    """

    features = 256

    def __init__(self, dim: int):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(self.features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = self.features // 2
        rates = torch.exp(
            torch.arange(half, device=t.device).float() * -(math.log(10000) / (half - 1))
        )
        angle = 1000 * t[:, None] * rates  # in this order: one ulp of t is 6e-5 of the output
        return self.time_mlp(
            torch.cat([angle.sin(), angle.cos()], -1).to(next(self.time_mlp.parameters()).dtype)
        )


class Rotary(nn.Module):
    """Rotary angles, each twice in a row, (n, dim_head). The rates are stored in checkpoints; here
    they are never of low precision.
    """

    inv_freq: Tensor

    def __init__(self, dim_head: int, base: float = 10000.0):
        super().__init__()
        self.register_buffer(
            "inv_freq", 1.0 / base ** (torch.arange(0, dim_head, 2).float() / dim_head)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        exact = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype not in (torch.float32, torch.float64):
            self.inv_freq = exact.to(self.inv_freq.device)
        return self

    def forward(self, n: int) -> Tensor:
        angle = (
            torch.arange(n, device=self.inv_freq.device, dtype=self.inv_freq.dtype)[:, None]
            * self.inv_freq
        )
        return angle.repeat_interleave(2, -1)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of ``x`` (..., n, d) by ``angle`` (n, d)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    quarter = torch.stack([-odd, even], -1).flatten(-2)
    return (x * angle.cos() + quarter * angle.sin()).to(x.dtype)


class WeightedRMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, for queries and keys."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Self-attention. ``rotated`` heads, from the first, are rotated; None: all of them."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        rotated: int | None,
        qk_norm: str | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.heads, self.rotated = heads, rotated
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, heads * dim_head) for _ in range(3))
        self.q_norm = WeightedRMSNorm(dim_head) if qk_norm else None
        self.k_norm = WeightedRMSNorm(dim_head) if qk_norm else None
        self.to_out = nn.ModuleList([nn.Linear(heads * dim_head, dim), nn.Dropout(dropout)])

    def forward(
        self, x: Tensor, angle: Tensor, valid: Tensor | None = None, attend: Tensor | None = None
    ) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        q, k = self._rotate(q, angle), self._rotate(k, angle)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attend).transpose(1, 2).flatten(-2)
        for layer in self.to_out:
            out = layer(out)
        return out if valid is None else out.masked_fill(~valid[..., None], 0.0)

    def _rotate(self, x: Tensor, angle: Tensor) -> Tensor:
        if self.rotated is None or self.rotated >= self.heads:
            return rotate(x, angle)
        return torch.cat([rotate(x[:, : self.rotated], angle), x[:, self.rotated :]], 1)


class FeedForward(nn.Module):
    """Two layers with tanh-approximated GELU."""

    def __init__(self, dim: int, mult: float, dropout: float = 0.0):
        super().__init__()
        inner = int(dim * mult)
        first = nn.Sequential(nn.Linear(dim, inner), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(first, nn.Dropout(dropout), nn.Linear(inner, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class Modulation(nn.Module):
    """A layer norm without weights, and ``count`` vectors (b, 1, dim) made of the time
    embedding.
    """

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(dim, count * dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time))[:, None].chunk(self.count, -1)


class DiTBlock(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by time."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        ff_mult: float,
        rotated: int | None,
        qk_norm: str | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.attn_norm = Modulation(dim, 6)
        self.attn = Attention(dim, heads, dim_head, rotated, qk_norm, dropout)
        self.ff = FeedForward(dim, ff_mult, dropout)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        angle: Tensor,
        valid: Tensor | None = None,
        attend: Tensor | None = None,
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.attn_norm(time)
        x = x + gate_a * self.attn(
            self.attn_norm.norm(x) * (1 + scale_a) + shift_a, angle, valid, attend
        )
        return x + gate_m * self.ff(self.attn_norm.norm(x) * (1 + scale_m) + shift_m)


class FinalNorm(nn.Module):
    """The norm before the output; unlike the blocks' its vectors come as scale, then shift."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(time))[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class ConvPosition(nn.Module):
    """Two grouped convolutions over time, each followed by Mish; padded frames are zeroed before
    and after each.
    """

    kernel, groups = 31, 16

    def __init__(self, dim: int):
        super().__init__()
        first, second = (
            nn.Conv1d(dim, dim, self.kernel, groups=self.groups, padding=self.kernel // 2)
            for _ in range(2)
        )
        self.conv1d = nn.Sequential(first, nn.Mish(), second, nn.Mish())

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2)
        x = x if valid is None else x.masked_fill(~valid[:, None], 0.0)
        for layer in self.conv1d:
            x = layer(x)
            x = (
                x
                if valid is None or isinstance(layer, nn.Mish)
                else x.masked_fill(~valid[:, None], 0.0)
            )
        return x.transpose(1, 2)


class CausalConvPosition(nn.Module):
    """As ``ConvPosition`` with all padding on the left, and no mask."""

    def __init__(self, dim: int):
        super().__init__()
        kernel, groups = ConvPosition.kernel, ConvPosition.groups
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in (self.conv1, self.conv2):
            x = layer(F.pad(x, (ConvPosition.kernel - 1, 0)))
        return x.transpose(1, 2)
