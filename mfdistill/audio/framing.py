"""Causal framing for streams: windows that end at the newest sample, and their overlap-add; the numbers of ``features`` with ``causal``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mfdistill.audio.features import StftConfig, compress, expand, window


@dataclass(frozen=True)
class Latency:
    """Delays of a stream in samples: ``offset`` between indices of input and output in the streaming loop (N - H), ``algorithmic`` (N: an
    output sample may depend on inputs this much later), ``total`` with a whole hop for computing (N + H)."""

    offset: int
    algorithmic: int
    total: int
    hop: int
    sample_rate: int

    def ms(self) -> dict[str, float]:
        """The same in milliseconds."""
        return {name: 1000 * getattr(self, name) / self.sample_rate for name in ("offset", "algorithmic", "total", "hop")}


def latency(config: StftConfig) -> Latency:
    """Of causal framing under this window and hop."""
    n, h = config.n_fft, config.hop
    return Latency(n - h, n, n + h, h, config.sample_rate)


def frame_features(pieces: Tensor, config: StftConfig) -> Tensor:
    """``(b, n, n_fft)`` stretches of waveform to features ``(b, 2, f, n)``."""
    spectrum = torch.fft.rfft(pieces * window(config, pieces.dtype, pieces.device))
    if config.normalized:
        spectrum = spectrum * config.n_fft**-0.5
    return compress(torch.view_as_real(spectrum).permute(0, 3, 2, 1)[:, :, : config.bins], config)


def frame_waves(z: Tensor, config: StftConfig) -> Tensor:
    """Features ``(b, 2, f, n)`` to windowed stretches ``(b, n, n_fft)``, ready for ``overlap_add``."""
    spectrum = torch.view_as_complex(expand(z, config).permute(0, 3, 2, 1).contiguous())
    if config.normalized:
        spectrum = spectrum * config.n_fft**0.5
    return torch.fft.irfft(spectrum, n=config.n_fft, dim=-1) * window(config, z.dtype, z.device)


def overlap_add(pieces: Tensor, overlap: Tensor, config: StftConfig) -> tuple[Tensor, Tensor]:
    """``(b, n, n_fft)`` stretches after the ``overlap (b, n_fft - hop)`` of those before: finished samples ``(b, n hop)`` and the new
    overlap. The first ``n_fft - hop`` samples of a stream lie before its start."""
    length = (pieces.shape[1] - 1) * config.hop + config.n_fft
    total = F.fold(pieces.transpose(1, 2), (1, length), (1, config.n_fft), stride=(1, config.hop))[:, 0, 0]
    total = total + F.pad(overlap, (0, length - overlap.shape[1]))
    done = pieces.shape[1] * config.hop
    squares = window(config, pieces.dtype, pieces.device).square()
    envelope = F.pad(squares, (0, -config.n_fft % config.hop)).reshape(-1, config.hop).sum(0)
    return total[:, :done] / envelope.repeat(pieces.shape[1]), total[:, done:]
