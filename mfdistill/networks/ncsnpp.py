"""NCSN++ as SGMSE+, FlowSE and MeanFlowSE use it (score-SDE, arXiv 2011.13456), as a velocity
network on our clock.

BigGAN residual blocks, FIR resampling as plain convolutions, progressive input ("input skip", sum)
and output ("output skip"). Everything is differentiable in forward mode. The submodules in
``all_modules`` have the originals' numbers, so a checkpoint's names differ only in the time
embedding's (``systems.enhancement``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.config import NCSNppConfig
from mfdistill.networks.delta import DeltaEmbedding, NoisinessEmbedding, fan_average
from mfdistill.networks.dual import Dual, affine, conv, linear, norm_silu, through
from mfdistill.networks.fused import can_fuse
from mfdistill.networks.ouve import to_velocity
from mfdistill.networks.time import current_time

_HALF = 0.5**0.5
_WEIGHTS = 2**26  # of attention, held at a time


def fir_down(x: Tensor, kernel: Tensor) -> Tensor:
    """``(b, c, f, n)`` to half of f and n: the kernel ``(1, 1, 4, 4)`` of sum 1 around every second
    pixel, zeros beyond the edges.
    """
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), stride=2, padding=1, groups=x.shape[1])


def fir_up(x: Tensor, kernel: Tensor) -> Tensor:
    """``(b, c, f, n)`` to twice f and n: zeros between the pixels, then four times the kernel."""
    return F.conv_transpose2d(
        x, 4 * kernel.expand(x.shape[1], 1, 4, 4), stride=2, padding=1, groups=x.shape[1]
    )


def fir_kernel() -> Tensor:
    """The outer product of [1, 3, 3, 1] / 8 with itself, ``(1, 1, 4, 4)``."""
    side = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(side, side)[None, None]


class GroupNorm(nn.GroupNorm):
    """``min(c / 4, 32)`` groups. Written out under ``torch.compile``, where the fused one cannot be
    differentiated in forward mode.
    """

    def __init__(self, channels: int):
        groups = min(channels // 4, 32)
        if not groups or channels % groups:
            raise UserError(
                f"network 'ncsnpp': {channels} channels cannot be normed in {groups} groups; make nf a multiple of 16"
            )
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(input)
        h = input.unflatten(1, (self.num_groups, -1)).flatten(2)
        h = h - h.mean(-1, keepdim=True)
        h = (h * (h.square().mean(-1, keepdim=True) + self.eps).rsqrt()).reshape(input.shape)
        return h * self.weight[:, None, None] + self.bias[:, None, None]


def _conv(inputs: int, outputs: int, size: int = 3, scale: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    fan_average(conv, scale)
    return conv


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip, the time embedding added between them; optionally to
    twice or half the resolution.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, resample: str | None = None
    ):
        super().__init__()
        self.resample = resample
        self.GroupNorm_0 = GroupNorm(inputs)
        self.Conv_0 = _conv(inputs, outputs)
        self.Dense_0 = nn.Linear(embedding, outputs)
        fan_average(self.Dense_0)
        self.GroupNorm_1 = GroupNorm(outputs)
        self.dropout = dropout
        self.Conv_1 = _conv(outputs, outputs, scale=0.0)
        if inputs != outputs or resample:
            self.Conv_2 = _conv(inputs, outputs, 1)

    def forward(self, x: Dual, e: Dual, kernel: Tensor, fuse: bool) -> Dual:
        """``e`` (b, embedding) is activated already."""
        shift, dropout = affine(self.Dense_0, e), self.dropout if self.training else 0.0
        if self.resample is None:
            h = conv(self.Conv_0, x, fuse, self.GroupNorm_0, shift)
        else:
            filter_ = fir_up if self.resample == "up" else fir_down
            h = linear(lambda h: filter_(h, kernel), norm_silu(self.GroupNorm_0, x, fuse))
            x = linear(lambda x: filter_(x, kernel), x)
            h = conv(self.Conv_0, h, fuse, shift=shift)
        if hasattr(self, "Conv_2"):
            x = affine(self.Conv_2, x)
        return conv(self.Conv_1, h, fuse, self.GroupNorm_1, skip=x, scale=_HALF, dropout=dropout)


class PixelLinear(nn.Module):
    """A linear layer for every pixel of ``(b, c, pixels)``, its matrix stored (in, out)."""

    def __init__(self, channels: int, scale: float = 0.1):
        super().__init__()
        linear = nn.Linear(channels, channels)
        fan_average(linear, scale)
        self.W, self.b = (
            nn.Parameter(linear.weight.detach().t().contiguous()),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.W.t(), x) + self.b[:, None]


class Attention(nn.Module):
    """One head over all pixels; the softmax is written out, since fused attention has no
    forward-mode rule.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.GroupNorm_0 = GroupNorm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2 = (
            PixelLinear(channels),
            PixelLinear(channels),
            PixelLinear(channels),
        )
        self.NIN_3 = PixelLinear(channels, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # channels last, torch cannot norm it in forward mode
        h = self.GroupNorm_0(x).flatten(2)
        q, k, v = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        # long recordings by groups of queries: the whole matrix of a minute would not fit
        groups = q.split(max(1, _WEIGHTS // (len(q) * q.shape[2])), -1)
        h = (
            torch.cat([_attend(part, k, v) for part in groups], -1)
            if len(groups) > 1
            else _attend(q, k, v)
        )
        h = self.NIN_3(h)
        return (x + h.reshape(x.shape)) * _HALF


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(torch.matmul(q.transpose(1, 2), k) * q.shape[1] ** -0.5, -1)
    return torch.matmul(v, weights.transpose(1, 2))


class Combine(nn.Module):
    """Its 1 x 1 convolution of the shrunken input is added to the features."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.Conv_0 = _conv(inputs, outputs, 1)


class _Level(NamedTuple):
    """Names in ``all_modules`` of one resolution."""

    blocks: list[tuple[str, str | None]]
    """Residual block and the attention after it, in order."""
    ends: tuple[str, str] | None
    """Down: resampling block and Combine. Up: norm and convolution to the output pyramid."""
    up: str | None = None


class NCSNpp(nn.Module):
    """``forward(z_t, t, cond) -> v``: ``z_t`` and ``cond["y"]`` are ``(b, 2, f, n)``, ``f =
    config.image_size``, any n (padded with zeros to a multiple of ``2^(levels - 1)`` inside); t is
    ``(b,)`` or the stacked pair [t, r], on our clock.
    """

    time_embedding_name = "time_embedding"

    def __init__(self, config: NCSNppConfig):
        super().__init__()
        self.config = config
        self.fuse = True  # on CPUs, where possible (networks.fused)
        nf, self.multiple = config.nf, 2 ** (len(config.ch_mult) - 1)
        embedding = NoisinessEmbedding(
            nf, config.fourier_scale, config.time == "log", config.time_floor
        )
        self.time_embedding = (
            DeltaEmbedding(embedding, 4 * nf, config.fourier_scale) if config.delta else embedding
        )
        self.output_layer = nn.Conv2d(4, 2, 1)
        self.all_modules = nn.ModuleDict()
        self.register_buffer("kernel", fir_kernel(), persistent=False)
        self._build()

    def _build(self) -> None:
        config, last = self.config, len(self.config.ch_mult) - 1
        count = 3  # 0 to 2 are the time embedding's

        def add(module: nn.Module) -> str:
            nonlocal count
            self.all_modules[str(count)] = module
            count += 1
            return str(count - 1)

        def block(inputs: int, outputs: int, resample: str | None = None) -> str:
            return add(ResBlock(inputs, outputs, 4 * config.nf, config.dropout, resample))

        attended = [config.image_size // 2**i in config.attn_resolutions for i in range(last + 1)]
        self.first = add(_conv(4, config.nf))
        c, skips = config.nf, [config.nf]
        self.down: list[_Level] = []
        for i, width in enumerate(config.nf * m for m in config.ch_mult):
            blocks: list[tuple[str, str | None]] = []
            for _ in range(config.num_res_blocks):
                blocks.append((block(c, width), add(Attention(width)) if attended[i] else None))
                c = width
                skips.append(c)
            ends = None
            if i < last:
                ends = block(c, c, "down"), add(Combine(4, c))
                skips.append(c)
            self.down.append(_Level(blocks, ends))
        self.middle = block(c, c), add(Attention(c)), block(c, c)
        self.up: list[_Level] = []
        for i in range(last, -1, -1):
            width, blocks = config.nf * config.ch_mult[i], []
            for _ in range(config.num_res_blocks + 1):
                blocks.append((block(c + skips.pop(), width), None))
                c = width
            if attended[i]:
                blocks[-1] = blocks[-1][0], add(Attention(c))
            ends = add(GroupNorm(c)), add(_conv(c, 4, scale=0.0))
            self.up.append(_Level(blocks, ends, block(c, c, "up") if i else None))

    def forward(self, z_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self._both((z_t, None), (t, None), cond)[0]

    def with_tangent(
        self, z_t: Tensor, t: Tensor, cond: dict[str, Tensor], dz: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``forward`` and its derivative along (dz, dt), tangents of z_t and t, in one pass; only
        the value has a graph.
        """
        value, tangent = self._both((z_t, dz), (t, dt), cond)
        assert tangent is not None
        return value, tangent

    def _both(self, z_t: Dual, t: Dual, cond: dict[str, Tensor]) -> Dual:
        if z_t[0].shape[2] != self.config.image_size:
            raise ValueError(
                f"network 'ncsnpp' was made for {self.config.image_size} bins (image_size), got {z_t[0].shape[2]}"
            )
        n, y = z_t[0].shape[3], cond["y"]
        fuse = self.fuse and can_fuse(z_t[0]) and not (self.training and self.config.dropout)

        def stack(z: Tensor, y: Tensor) -> Tensor:
            x = F.pad(torch.cat([z, y], 1), (0, -n % self.multiple))
            return x.contiguous(memory_format=torch.channels_last) if fuse else x

        x = linear(stack, z_t, (y, None if z_t[1] is None else torch.zeros_like(y)))
        pyramid = self._body(x, through(lambda t: F.silu(self.time_embedding(t)), t), fuse)
        return through(lambda pyramid, z, t: self._finish(pyramid, z, t, y), pyramid, z_t, t)

    def _finish(self, pyramid: Tensor, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        noisiness = (1 - current_time(t)).to(pyramid.dtype)
        if self.config.divide_by_t:
            pyramid = pyramid / noisiness.clamp(min=self.config.time_floor)[:, None, None, None]
        output = self.output_layer(pyramid)[..., : z_t.shape[3]]
        # velocity and score are minus the network on the official clock; the flipped clock takes
        # the velocity's minus away
        return (
            output
            if self.config.output == "velocity"
            else to_velocity(-output, z_t, y, noisiness, self.config)
        )

    def _body(self, x: Dual, e: Dual, fuse: bool) -> Dual:
        """The output pyramid ``(b, 4, f, n)`` of the stacked input and the activated time
        embedding.
        """
        layers, kernel = self.all_modules, self.kernel

        def add(a: Dual, b: Dual) -> Dual:
            return linear(torch.add, a, b)

        def up(x: Tensor) -> Tensor:
            return fir_up(x, kernel)  # type: ignore[arg-type]

        small, skips = x, [affine(layers[self.first], x)]  # type: ignore[arg-type]
        for level in self.down:
            for block, attention in level.blocks:
                h = layers[block](skips[-1], e, kernel, fuse)
                skips.append(through(layers[attention], h) if attention else h)
            if level.ends:
                small = linear(lambda x: fir_down(x, kernel), small)  # type: ignore[arg-type]
                h = layers[level.ends[0]](skips[-1], e, kernel, fuse)
                skips.append(add(affine(layers[level.ends[1]].Conv_0, small), h))  # type: ignore[arg-type]
        before, attention, after = (layers[name] for name in self.middle)
        h = after(through(attention, before(skips[-1], e, kernel, fuse)), e, kernel, fuse)
        pyramid = None
        for level in self.up:
            for block, attention in level.blocks:
                h = layers[block](
                    linear(lambda h, skip: torch.cat([h, skip], 1), h, skips.pop()), e, kernel, fuse
                )
                h = through(layers[attention], h) if attention else h
            norm, last = (layers[name] for name in level.ends or ())
            part = conv(last, h, fuse, norm)  # type: ignore[arg-type]
            pyramid = part if pyramid is None else add(linear(up, pyramid), part)
            if level.up:
                h = layers[level.up](h, e, kernel, fuse)
        assert pyramid is not None
        return pyramid
