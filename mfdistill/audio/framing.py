"""Causal framing for streams: windows that end at the newest sample, and their overlap-add; the
numbers of ``features`` with ``causal``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mfdistill.audio.features import StftConfig, compress, expand, window


@dataclass(frozen=True)
class Latency:
    """Delays of a stream in samples: ``offset`` between indices of input and output in the
    streaming loop (N - H), ``algorithmic`` (N: an output sample may depend on inputs this much
    later), ``total`` with a whole hop for computing (N + H).
    """

    offset: int
    algorithmic: int
    total: int
    hop: int
    sample_rate: int

    def ms(self) -> dict[str, float]:
        """The same in milliseconds."""
        return {
            name: 1000 * getattr(self, name) / self.sample_rate
            for name in ("offset", "algorithmic", "total", "hop")
        }


def latency(config: StftConfig) -> Latency:
    """Of causal framing under this window and hop."""
    n, h = config.n_fft, config.hop
    return Latency(n - h, n, n + h, h, config.sample_rate)


class Dft:
    """Windowed Fourier transforms as matrices, for graphs that have no other: ``analysis (n_fft, 2
    f)`` and ``synthesis (2 f, n_fft)``, all real parts before all imaginary ones.
    """

    def __init__(
        self,
        config: StftConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        basis = torch.eye(config.n_fft, dtype=torch.float64)
        self.analysis = (
            _spectrum(basis[None], config).permute(0, 3, 1, 2)[0].flatten(1).to(device, dtype)
        )
        units = (
            torch.eye(2 * config.bins, dtype=torch.float64)
            .unflatten(1, (2, -1))
            .permute(1, 2, 0)[None]
        )
        self.synthesis = _waves(units, config)[0].to(device, dtype)


def frame_features(pieces: Tensor, config: StftConfig, dft: Dft | None = None) -> Tensor:
    """``(b, n, n_fft)`` stretches of waveform to features ``(b, 2, f, n)``."""
    if dft is not None:
        return compress((pieces @ dft.analysis).unflatten(-1, (2, -1)).permute(0, 2, 3, 1), config)
    return compress(_spectrum(pieces, config), config)


def _spectrum(pieces: Tensor, config: StftConfig) -> Tensor:
    spectrum = torch.fft.rfft(pieces * window(config, pieces.dtype, pieces.device))
    if config.normalized:
        spectrum = spectrum * config.n_fft**-0.5
    return torch.view_as_real(spectrum).permute(0, 3, 2, 1)[:, :, : config.bins]


def frame_waves(z: Tensor, config: StftConfig, dft: Dft | None = None) -> Tensor:
    """Features ``(b, 2, f, n)`` to windowed stretches ``(b, n, n_fft)``, ready for
    ``overlap_add``.
    """
    if dft is not None:
        return expand(z, config).permute(0, 3, 1, 2).flatten(2) @ dft.synthesis
    return _waves(expand(z, config), config)


def _waves(z: Tensor, config: StftConfig) -> Tensor:
    spectrum = torch.view_as_complex(z.permute(0, 3, 2, 1).contiguous())
    if config.normalized:
        spectrum = spectrum * config.n_fft**0.5
    return torch.fft.irfft(spectrum, n=config.n_fft, dim=-1) * window(config, z.dtype, z.device)


def overlap_add(
    pieces: Tensor, overlap: Tensor, envelope: Tensor, config: StftConfig
) -> tuple[Tensor, Tensor]:
    """``(b, n, n_fft)`` stretches after the ``overlap (b, n_fft - hop)`` of those before: finished
    samples ``(b, n hop)`` and the new overlap. The first ``n_fft - hop`` samples of a stream lie
    before its start.
    """
    done = pieces.shape[1] * config.hop
    length = done - config.hop + config.n_fft
    if pieces.shape[1] == 1:
        total = pieces[:, 0]
    else:
        total = F.fold(
            pieces.transpose(1, 2), (1, length), (1, config.n_fft), stride=(1, config.hop)
        )[:, 0, 0]
    total = total + F.pad(overlap, (0, length - overlap.shape[1]))
    return total[:, :done] / envelope.repeat(pieces.shape[1]), total[:, done:]


def window_envelope(
    config: StftConfig, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """What overlapping windows, each applied twice, sum to over one hop, ``(hop,)``."""
    squares = window(config, dtype, device).square()
    return F.pad(squares, (0, -config.n_fft % config.hop)).reshape(-1, config.hop).sum(0)
