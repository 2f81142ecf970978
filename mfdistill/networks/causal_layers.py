"""Layers of the frame-causal NCSN++ (Stream.FM, arXiv 2512.19442), on ``(b, channels, freqs,
frames)``; nothing sees a later frame.

Written from a description of the behaviour; module names are those of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.errors import UserError
from mfdistill.networks.memory import Memory, with_past


class CausalConv(nn.Conv2d):
    """Convolution that sees zeros beyond the frequencies' edges and before the first frame;
    ``dilation`` is along the frames.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(
            inputs,
            outputs,
            kernel,
            padding=(kernel // 2, 0),
            dilation=(1, dilation),
            groups=groups,
            bias=bias,
        )
        self.past = (kernel - 1) * dilation

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(with_past(x, self.past, 3, memory))


class DecoupledConv(nn.Module):
    """``rank`` filters of its own for every input channel, then a mixture of all of them (arXiv
    1808.05517).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, rank: int):
        super().__init__()
        self.depthwise_conv = CausalConv(
            inputs, inputs * rank, kernel, dilation, groups=inputs, bias=False
        )
        self.pointwise_conv = nn.Conv2d(inputs * rank, outputs, 1)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x, memory))


def can_decouple(conv: nn.Module, rank: int) -> bool:
    """Whether ``rank`` filters per channel fit: 1 x 1 convolutions and those with few channels stay
    as they are.
    """
    return (
        isinstance(conv, CausalConv)
        and conv.kernel_size != (1, 1)
        and rank <= min(math.prod(conv.kernel_size), conv.in_channels, conv.out_channels)
    )


class SubBandNorm(nn.Module):
    """Norm over groups of channels and contiguous sub-bands of frequency, with a scale and shift
    per channel and sub-band.

    Statistics "batch" are those of a batch norm (over batch, group, sub-band and all frames, biased
    variance; in evaluation the running
    ones: no frame depends on another). "frame" takes them in every frame by itself, and keeps none.

    Args:
        channels, freqs: of the input.
        bands: sub-bands; if they do not divide ``freqs``, the largest smaller number that does.

    Attributes:
        frozen: use the running statistics in training too. JVPs need it, and without it batches
            leak across samples and frames.
    """

    def __init__(
        self, channels: int, freqs: int, bands: int, statistics: Literal["batch", "frame"] = "batch"
    ):
        super().__init__()
        self.groups = max(1, min(channels // 4, 32))
        if channels % self.groups:
            raise UserError(
                f"network 'causal_ncsnpp': {channels} channels do not split into {self.groups} groups; take a multiple of 4"
            )
        bands = next(k for k in range(min(bands, freqs), 0, -1) if freqs % k == 0)
        self.statistics, self.eps, self.momentum, self.frozen = statistics, 1e-5, 0.1, False
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels, bands)),
            nn.Parameter(torch.zeros(channels, bands)),
        )
        if statistics == "batch":
            self.register_buffer("running_mean", torch.zeros(self.groups, bands))
            self.register_buffer("running_var", torch.ones(self.groups, bands))

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, n = x.shape
        bands = self.weight.shape[1]
        if self.statistics == "frame":
            mean, var = self._measure(x, (2, 4))  # (b, g, 1, k, 1, n)
        elif self.training and not self.frozen:
            mean, var = self._measure(x, (0, 2, 4, 5))  # (1, g, 1, k, 1, 1)
            with torch.no_grad():
                for running, new in ((self.running_mean, mean), (self.running_var, var)):
                    running.lerp_(new.detach().reshape(self.groups, bands), self.momentum)  # type: ignore[operator]
        else:
            running = (self.running_mean, self.running_var)
            mean, var = (r[None, :, None, :, None, None] for r in running)  # type: ignore[index]
        weight, bias = (
            p.reshape(1, self.groups, -1, bands, 1, 1) for p in (self.weight, self.bias)
        )
        scale = weight * (var + self.eps).rsqrt()
        y = self._grouped(x) * scale + (bias - mean * scale)
        return y.reshape(b, c, f, n)

    def _grouped(self, x: Tensor) -> Tensor:
        b, c, f, n = x.shape
        bands = self.weight.shape[1]
        return x.reshape(b, self.groups, c // self.groups, bands, f // bands, n)

    def _measure(self, x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        grouped = self._grouped(x)
        mean = grouped.mean(dims, keepdim=True)
        return mean, (grouped - mean).square().mean(dims, keepdim=True)


def freeze_norms(network: nn.Module, frozen: bool = True) -> None:
    """Let every ``SubBandNorm`` in ``network`` use its running statistics, in training too (or not,
    with ``frozen`` False).
    """
    for module in network.modules():
        if isinstance(module, SubBandNorm):
            module.frozen = frozen


class Resample(nn.Module):
    """Half or double the frequencies with a four-tap filter whose taps sum to one (so that doubling
    halves the mean); frame by frame.
    """

    def __init__(self, kernel: Sequence[float], up: bool):
        super().__init__()
        if len(kernel) != 4:
            raise UserError(
                f"network 'causal_ncsnpp': fir_kernel {list(kernel)} has {len(kernel)} taps; it needs 4, such as [1, 3, 3, 1]"
            )
        self.up = up
        taps = torch.tensor([float(tap) for tap in kernel])
        self.register_buffer("fir_kernel", taps / taps.sum())

    def forward(self, x: Tensor) -> Tensor:
        k: Tensor = self.fir_kernel  # type: ignore[assignment]
        if not self.up:
            half = (x.shape[2] + 1) // 2
            x = F.pad(x, (0, 0, 1, 2))
            return sum(k[j] * x[:, :, j : j + 2 * half - 1 : 2] for j in range(4))  # type: ignore[return-value]
        after = F.pad(x, (0, 0, 0, 1))[:, :, 1:]
        return torch.stack([k[1] * x + k[3] * after, k[0] * x + k[2] * after], 3).flatten(2, 3)


class FourierFeatures(nn.Module):
    """``(b,)`` times to ``[sin(2 pi t W), cos(2 pi t W)]``, ``(b, 2 d)``; W is drawn once and not
    trained.
    """

    def __init__(self, dim: int, scale: float):
        super().__init__()
        self.W = nn.Parameter(scale * torch.randn(dim), requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        dtype = torch.promote_types(self.W.dtype, torch.float32)
        # in this order: it shows in the sixth digit
        angle = t.to(dtype)[:, None] * self.W.to(dtype) * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], -1).to(self.W.dtype)


class TimeModules(nn.Module):
    """``(b,)`` times in [0, 1] to the embedding ``(b, 4 d)``."""

    def __init__(self, dim: int, scale: float):
        super().__init__()
        self.gfp = FourierFeatures(dim, scale)
        self.lin1, self.lin2 = nn.Linear(2 * dim, 4 * dim), nn.Linear(4 * dim, 4 * dim)

    def forward(self, t: Tensor) -> Tensor:
        return self.lin2(F.silu(self.lin1(self.gfp(t))))
