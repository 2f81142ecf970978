"""Critics (discriminators): what tells generated from real speech, for training only.

Every critic gives for its input a list of ``(score, features)``, one for each of its parts: the
score (b, ...) is high where the input seems real, the features are the activations of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from mfdistill.networks.time import TimeEmbedding

Judgement = list[tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class CriticSizes:
    """Sizes of ``WaveCritics`` and ``MelCritic``."""

    windows_s: tuple[float, ...]
    """Of the spectrograms."""
    channels: int
    """Of the spectrograms' critics."""
    first_stride: int
    """Of their first layer along the frequencies."""
    periods: tuple[int, ...]
    """Of the multi-period critics."""
    period_channels: tuple[int, ...]
    mel_channels: int
    mel_layers: int


SIZES = {
    # 0.11 M parameters on signals, 0.04 M on Mels: for CPUs
    "slim": CriticSizes((0.016, 0.032, 0.064), 16, 2, (2, 3, 5, 7, 11), (8, 16, 32, 32), 24, 4),
    # EnCodec's spectrograms (arXiv 2210.13438), HiFi-GAN's periods (arXiv 2010.05646)
    "published": CriticSizes(
        *((0.005, 0.011, 0.021, 0.043, 0.085), 32, 1, (2, 3, 5, 7, 11)),
        *((32, 128, 512, 1024, 1024), 128, 6),
    ),
}


class Layers(nn.Module):
    """Convolutions with leaky ReLU between them, and a last one to one score per position."""

    def __init__(self, convs: Sequence[nn.Module], last: nn.Module):
        super().__init__()
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
        self.last = weight_norm(last)

    def forward(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """``first``, (b, c), is added to what the first convolution gives."""
        features = []
        for conv in self.convs:
            x = conv(x)
            if first is not None and not features:
                x = x + first[..., None, None]
            x = F.leaky_relu(x, 0.2)
            features.append(x)
        return self.last(x), features


class SpectrogramCritic(Layers):
    """A complex spectrogram of compressed magnitude, (2, frames, frequencies), through dilated
    2-D convolutions.
    """

    def __init__(self, size: int, channels: int, first_stride: int):
        def conv(inputs: int, stride: int, dilation: int = 1) -> nn.Conv2d:
            return nn.Conv2d(
                inputs, channels, (3, 9), (1, stride), (dilation, 4), dilation=(dilation, 1)
            )

        first = [conv(2, first_stride), *(conv(channels, 2, dilation) for dilation in (1, 2, 4))]
        super().__init__(
            [*first, nn.Conv2d(channels, channels, 3, padding=1)],
            nn.Conv2d(channels, 1, 3, padding=1),
        )
        self.size = size

    def judge(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(b, s)"""
        window = torch.hann_window(self.size, dtype=wave.dtype, device=wave.device)
        z = torch.stft(wave, self.size, self.size // 4, window=window, return_complex=True)
        parts = torch.stack([z.real, z.imag], 1) / window.norm()
        # square root of the magnitude, at its phase; the floor keeps gradients finite in silence
        parts = parts * (parts.square().sum(1, keepdim=True) + 1e-6) ** -0.25
        return self(parts.transpose(2, 3))


class PeriodCritic(Layers):
    """Every ``period``-th sample, for all offsets, through convolutions along the time."""

    def __init__(self, period: int, channels: Sequence[int]):
        widths = [1, *channels]
        convs = [
            nn.Conv2d(a, b, (5, 1), (3 if i < len(channels) - 1 else 1, 1), (2, 0))
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        super().__init__(convs, nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))
        self.period = period

    def judge(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(b, s)"""
        wave = F.pad(wave, (0, -wave.shape[1] % self.period))
        return self(wave.unflatten(1, (-1, self.period))[:, None])


class WaveCritics(nn.Module):
    """``critics(wave (b, s))``: spectrograms at several resolutions, and several periods."""

    def __init__(self, sizes: CriticSizes, sample_rate: int):
        super().__init__()
        windows = [round(sample_rate * seconds / 8) * 8 for seconds in sizes.windows_s]
        self.parts = nn.ModuleList(
            [
                *(SpectrogramCritic(w, sizes.channels, sizes.first_stride) for w in windows),
                *(PeriodCritic(period, sizes.period_channels) for period in sizes.periods),
            ]
        )

    def forward(self, wave: Tensor) -> Judgement:
        return [part.judge(wave) for part in self.parts]  # type: ignore[operator, union-attr]


class MelCritic(nn.Module):
    """``critic(z_t (b, 1, mels, n), t (b,), cond)``: a Mel state at time t of its path, beside what
    it was made from (``cond[name] (b, 1, mels or 1, n)`` for each of ``names``).

    States are shown with noise, more or less of it as t says (Diffusion-GAN, arXiv 2206.02262;
    MeanVC's critic does so too): real and generated ones then overlap, and the critic has something
    to say at every scale.
    """

    def __init__(self, sizes: CriticSizes, names: Sequence[str]):
        super().__init__()
        c = sizes.mel_channels
        self.names = tuple(names)
        self.time = TimeEmbedding(c)
        self.layers = Layers(
            [
                nn.Conv2d(1 + len(self.names), c, 3, padding=1),
                *(
                    nn.Conv2d(c, c, 3, (2 if i < 3 else 1, 1), padding=1)
                    for i in range(1, sizes.mel_layers)
                ),
            ],
            nn.Conv2d(c, 1, 3, padding=1),
        )

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Judgement:
        given = [cond[name].to(z_t).expand_as(z_t) for name in self.names]
        return [self.layers(torch.cat([z_t, *given], 1), self.time(t))]


def critic_loss(kind: str, real: Judgement, fake: Judgement) -> Tensor:
    """What critics minimise, (): "hinge" (arXiv 1705.02894) or "least-squares" (arXiv 1611.04076),
    the mean over parts and positions.
    """
    good, bad = _LOSSES[kind][:2]
    pairs = zip(real, fake, strict=True)
    return torch.stack([good(a).mean() + bad(b).mean() for (a, _), (b, _) in pairs]).mean()


def deceit_loss(kind: str, fake: Judgement) -> Tensor:
    """What the model minimises against critics, ()."""
    return torch.stack([_LOSSES[kind][2](score).mean() for score, _ in fake]).mean()


def matching_loss(real: Judgement, fake: Judgement) -> Tensor:
    """Mean ``|a - b|`` of features relative to the real ones', (), the mean over samples, layers
    and parts (feature matching, arXiv 1910.06711, scaled as in EnCodec, arXiv 2210.13438).
    """
    return torch.stack(
        [
            (_size(a.detach() - b) / _size(a.detach()).clamp_min(1e-6)).mean()
            for (_, real_), (_, fake_) in zip(real, fake, strict=True)
            for a, b in zip(real_, fake_, strict=True)
        ]
    ).mean()


def _size(x: Tensor) -> Tensor:
    return x.abs().flatten(1).mean(1)


Term = Callable[[Tensor], Tensor]
_LOSSES: dict[str, tuple[Term, Term, Term]] = {
    "hinge": (lambda s: F.relu(1 - s), lambda s: F.relu(1 + s), lambda s: -s),
    "least-squares": (lambda s: (1 - s).square(), torch.square, lambda s: (1 - s).square()),
}
