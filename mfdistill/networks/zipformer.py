"""The Zipformer of ZipVoice (arXiv 2506.13053): frames at several rates through layers that share
one attention map, under the names of its weights. What the original adds in training only
(balancers, whitening, random skips) is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def swoosh_l(x: Tensor) -> Tensor:
    """``ln(1 + e^(x - 4)) - 0.08 x - 0.035``."""
    return F.softplus(x - 4) - 0.08 * x - 0.035


def swoosh_r(x: Tensor) -> Tensor:
    """``ln(1 + e^(x - 1)) - 0.08 x - 0.313261687``, 0 at 0."""
    return F.softplus(x - 1) - 0.08 * x - 0.313261687


def relative_positions(n: int, dim: int, like: Tensor) -> Tensor:
    """(2 n - 1, dim): harmonics of the arc tangent of offsets 1 - n to n - 1, which are compressed
    logarithmically first; the last column is 1.
    """
    x = torch.arange(1 - n, n, device=like.device, dtype=torch.float32)[:, None]
    near = dim**0.5
    x = near * x.sign() * ((x.abs() + near).log() - math.log(near))
    angle = (x / (dim / (2 * math.pi))).atan() * (
        1 + torch.arange(dim // 2, device=like.device, dtype=torch.float32)
    )
    out = torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    return torch.cat([out[:, :-1], torch.ones_like(out[:, :1])], 1).to(like.dtype)


class SwooshR(nn.Module):
    """``swoosh_r`` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return swoosh_r(x)


class BiasNorm(nn.Module):
    """``x e^log_scale / rms(x - bias)``."""

    def __init__(self, dim: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        power = (x - self.bias).square().mean(-1, keepdim=True)
        return x * (power**-0.5 * self.log_scale.exp())


class Bypass(nn.Module):
    """From ``before`` to ``after``, channel by channel as far as ``bypass_scale``."""

    def __init__(self, dim: int):
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return before + (after - before) * self.bypass_scale


class AttentionWeights(nn.Module):
    """x (b, n, dim) -> attention (b, heads, n, n), by content and by relative position; not scaled
    by the width of a head.
    """

    def __init__(self, dim: int, heads: int, query: int, position: int, pos_dim: int):
        super().__init__()
        self.heads, self.query, self.position = heads, query, position
        self.in_proj = nn.Linear(dim, heads * (2 * query + position))
        self.linear_pos = nn.Linear(pos_dim, heads * position, bias=False)

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        width = self.heads * self.query
        q, k, p = self.in_proj(x).split([width, width, self.heads * self.position], -1)
        q, k, p = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, p))
        by_offset = self.linear_pos(positions).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        place = torch.arange(n, device=x.device)
        column = (n - 1) - place[:, None] + place  # of the offset from query to key
        scores = q @ k.transpose(-1, -2) + (p @ by_offset).gather(
            -1, column.expand(b, self.heads, n, n)
        )
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None], -1000.0)
        return scores.softmax(-1)


class Attention(nn.Module):
    """Values by a given attention."""

    def __init__(self, dim: int, heads: int, value: int):
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(dim, heads * value), nn.Linear(heads * value, dim)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        value = self.in_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class NonlinearAttention(nn.Module):
    """Gated values by the first head's attention, gated again."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = 3 * dim // 4
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        gate, value, after = self.in_proj(x).chunk(3, -1)
        return self.out_proj(weights[:, 0] @ (value * gate.tanh()) * after)


class FeedForward(nn.Module):
    """Two layers, ``swoosh_l`` between them."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(swoosh_l(self.in_proj(x)))


class Convolution(nn.Module):
    """A gate, a convolution along the frames of every channel, ``swoosh_r``; padding is zero to
    it.
    """

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        x = F.glu(self.in_proj(x), -1)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        x = self.depthwise_conv(x.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(swoosh_r(x))


class ZipformerLayer(nn.Module):
    """One attention map for three uses, three feed-forward parts, two convolutions, two bypasses.

    Args:
        sizes: of heads (query, value, position), positions' width, inner width.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        query: int,
        value: int,
        position: int,
        pos_dim: int,
        inner: int,
        kernel: int,
    ):
        super().__init__()
        self.self_attn_weights = AttentionWeights(dim, heads, query, position, pos_dim)
        self.self_attn1, self.self_attn2 = (Attention(dim, heads, value) for _ in range(2))
        self.feed_forward1 = FeedForward(dim, inner * 3 // 4)
        self.feed_forward2 = FeedForward(dim, inner)
        self.feed_forward3 = FeedForward(dim, inner * 5 // 4)
        self.nonlin_attention = NonlinearAttention(dim)
        self.conv_module1, self.conv_module2 = (Convolution(dim, kernel) for _ in range(2))
        self.norm = BiasNorm(dim)
        self.bypass, self.bypass_mid = Bypass(dim), Bypass(dim)

    def forward(
        self, x: Tensor, positions: Tensor, time: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        before = x
        weights = self.self_attn_weights(x, positions, valid)
        x = x if time is None else x + time
        x = x + self.feed_forward1(x)
        x = x + self.nonlin_attention(x, weights)
        x = x + self.self_attn1(x, weights)
        x = x if time is None else x + time
        x = x + self.conv_module1(x, valid)
        x = x + self.feed_forward2(x)
        x = self.bypass_mid(before, x)
        x = x + self.self_attn2(x, weights)
        x = x if time is None else x + time
        x = x + self.conv_module2(x, valid)
        x = x + self.feed_forward3(x)
        return self.bypass(before, self.norm(x))


class Stack(nn.Module):
    """Layers at one rate."""

    def __init__(self, layers: list[ZipformerLayer], dim: int, time_dim: int | None, pos_dim: int):
        super().__init__()
        self.pos_dim = pos_dim
        self.time_emb = (
            None if time_dim is None else nn.Sequential(SwooshR(), nn.Linear(time_dim, dim))
        )
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, time: Tensor | None, valid: Tensor | None) -> Tensor:
        positions = relative_positions(x.shape[1], self.pos_dim, x)
        if self.time_emb is not None:
            time = self.time_emb(time)[:, None]
        for layer in self.layers:
            x = layer(x, positions, time, valid)
        return x


class Downsample(nn.Module):
    """Every ``rate`` frames as one, their weighted mean; the last frame is repeated to fill it."""

    def __init__(self, rate: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(rate))

    def forward(self, x: Tensor) -> Tensor:
        rate = len(self.bias)
        lacking = -x.shape[1] % rate
        x = torch.cat([x, x[:, -1:].expand(-1, lacking, -1)], 1).unflatten(1, (-1, rate))
        return (x * self.bias.softmax(0)[:, None]).sum(2)


class SlowStack(nn.Module):
    """A stack at a lower rate, its output repeated, beside its input."""

    def __init__(self, stack: Stack, dim: int, rate: int):
        super().__init__()
        self.rate, self.downsample, self.encoder = rate, Downsample(rate), stack
        self.out_combiner = Bypass(dim)

    def forward(self, x: Tensor, time: Tensor | None, valid: Tensor | None) -> Tensor:
        valid = None if valid is None else valid[:, :: self.rate]
        slow = self.encoder(self.downsample(x), time, valid)
        return self.out_combiner(x, slow.repeat_interleave(self.rate, 1)[:, : x.shape[1]])


class Zipformer(nn.Module):
    """x (b, n, in_dim), an embedding of time (b, time_dim) or None, valid frames (b, n) -> (b, n,
    out_dim).

    Args:
        rates: by which each stack's frames are fewer. depths, kernels: layers and convolutions of
            each stack.
        time_dim: None: it is told no time.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        dim: int,
        rates: tuple[int, ...],
        depths: tuple[int, ...],
        kernels: tuple[int, ...],
        inner: int,
        heads: int,
        query: int,
        value: int,
        position: int,
        pos_dim: int,
        time_dim: int | None,
    ):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(in_dim, dim), nn.Linear(dim, out_dim)
        self.encoders = nn.ModuleList()
        for rate, depth, kernel in zip(rates, depths, kernels, strict=True):
            layers = [
                ZipformerLayer(dim, heads, query, value, position, pos_dim, inner, kernel)
                for _ in range(depth)
            ]
            stack = Stack(layers, dim, time_dim, pos_dim)
            self.encoders.append(stack if rate == 1 else SlowStack(stack, dim, rate))

    def forward(self, x: Tensor, time: Tensor | None, valid: Tensor | None) -> Tensor:
        x = self.in_proj(x)
        for stack in self.encoders:
            x = stack(x, time, valid)
        return self.out_proj(x)
