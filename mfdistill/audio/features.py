"""Compressed complex STFT features and their inverse.

``S -> scale |S|^exponent e^{j angle S}`` (``compression="log"``: ``scale log(1 + |S|)`` in its
place), carried as two real channels ``(b, 2, f, n)``. The defaults are Stream.FM's (TASLP 2026,
arXiv 2512.19442): 512/256 samples at 16 kHz, square-root Hann, 1/sqrt(N) scaling, Nyquist bin
dropped. NCSN++ systems (SGMSE, FlowSE, MeanFlowSE) are ``StftConfig(n_fft=510, hop=128,
window="hann", normalized=False, drop_nyquist=False, scale=0.15)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mfdistill.config import check_ranges
from mfdistill.errors import UserError

# Below this |S| (-160 dB of a full-scale bin) the compression is linear: the gradient at S = 0
# stays finite, and the inverse stays exact.
_LINEAR_BELOW = 1e-8
# Squared windows summed to less than this are not divided out: only the last few samples of a
# length that is no multiple of the hop.
_ENVELOPE_FLOOR = 1e-6


@dataclass(frozen=True)
class StftConfig:
    """How a waveform becomes features; ``n_fft``, ``hop`` and ``sample_rate`` in samples (per
    second).
    """

    sample_rate: int = 16000
    n_fft: int = 512
    hop: int = 256
    window: Literal["hann", "sqrt-hann"] = "sqrt-hann"
    exponent: float = 0.5
    scale: float = 1.0
    causal: bool = False
    drop_nyquist: bool = True
    normalized: bool = True
    compression: Literal["power", "log"] = "power"

    def __post_init__(self) -> None:
        check_ranges(self, "stft.", sample_rate=(-math.inf, 1e6), n_fft=(-math.inf, 16384))
        if self.sample_rate <= 0:
            raise UserError(
                f"stft.sample_rate={self.sample_rate}: must be positive; 16000 or 8000 are usual"
            )
        if self.n_fft < 4 or self.n_fft % 2:
            raise UserError(f"stft.n_fft={self.n_fft}: must be even and at least 4")
        if not 0 < self.hop <= self.n_fft // 2:
            raise UserError(
                f"stft.hop={self.hop}: must lie between 1 and n_fft/2 = {self.n_fft // 2}, or samples would be lost"
            )
        if self.window not in ("hann", "sqrt-hann"):
            raise UserError(f"stft.window={self.window!r}: must be 'hann' or 'sqrt-hann'")
        if self.compression not in ("power", "log"):
            raise UserError(f"stft.compression={self.compression!r}: must be 'power' or 'log'")
        if not (0 < self.exponent <= 1 and 0 < self.scale < 1e9):
            raise UserError(
                f"stft.exponent={self.exponent}, stft.scale={self.scale}: need 0 < exponent <= 1 and scale > 0"
            )

    @property
    def bins(self) -> int:
        """Number of frequency rows ``f``."""
        return self.n_fft // 2 + (0 if self.drop_nyquist else 1)


def frames(length: int, config: StftConfig) -> int:
    """Number of frames of ``length`` samples: ``1 + floor(length / hop)``, centred and causal
    alike.
    """
    return 1 + length // config.hop


def padded_length(length: int, config: StftConfig) -> int:
    """The least multiple of the hop that holds ``length`` samples and is long enough for reflection
    (more than ``n_fft / 2``).

    The last samples of other lengths lie under the end of a single window, which magnifies errors
    of generated features.
    """
    least = max(length, config.n_fft // 2 + 1)
    return -(-least // config.hop) * config.hop


def window(
    config: StftConfig, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """The periodic analysis (and synthesis) window ``(n_fft,)``; its root is taken after the cast,
    as Stream.FM does.
    """
    hann = torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64).to(dtype)
    return (hann.sqrt() if config.window == "sqrt-hann" else hann).to(device)


def stft_features(wave: Tensor, config: StftConfig) -> Tensor:
    """Compressed STFT ``(b, 2, f, n)`` of ``wave (b, s)``, ``n = frames(s)``; half precision is
    computed in float32.

    Centred: reflected by half a window at both ends, frame k around sample ``k hop``. Causal: frame
    k ends before sample ``(k + 1) hop`` and there are zeros before the start and after the end (a
    streaming framer with empty history).

    Raises:
        ValueError: ``wave`` is not ``(b, s)``, or too short to be reflected (see
            ``padded_length``).
    """
    if wave.dim() != 2:
        raise ValueError(f"expected a waveform (batch, samples), got shape {tuple(wave.shape)}")
    wave = wave if wave.dtype in (torch.float32, torch.float64) else wave.float()
    half, length = config.n_fft // 2, wave.shape[1]
    if config.causal:
        wave = F.pad(
            wave, (config.n_fft - config.hop, frames(length, config) * config.hop - length)
        )
    elif length <= half:
        raise ValueError(
            f"{length} samples cannot be reflected by {half}; pad them to padded_length(...) samples first"
        )
    else:
        wave = F.pad(wave, (half, half), mode="reflect")
    analysis = window(config, wave.dtype, wave.device)
    spectrum = torch.stft(
        wave, config.n_fft, config.hop, window=analysis, center=False, return_complex=True
    )
    if config.normalized:
        spectrum = spectrum * config.n_fft**-0.5
    return compress(torch.view_as_real(spectrum).permute(0, 3, 1, 2)[:, :, : config.bins], config)


def inverse_features(z: Tensor, config: StftConfig, length: int) -> Tensor:
    """Waveform ``(b, length)`` of features ``(b, 2, f, n)``: overlap-add under the same window,
    divided by the summed squared windows.

    ``length`` belongs to the original signal: ``frames(length) <= n``. The round trip loses the
    dropped Nyquist bin and nothing else.

    Raises:
        ValueError: ``z`` has other rows than ``config.bins``, or too few frames for ``length``.
    """
    if z.dim() != 4 or z.shape[1] != 2 or z.shape[2] != config.bins:
        raise ValueError(
            f"expected features (batch, 2, {config.bins}, frames), got shape {tuple(z.shape)}"
        )
    if frames(length, config) > z.shape[3]:
        raise ValueError(
            f"{z.shape[3]} frames hold fewer than {length} samples (need {frames(length, config)} frames)"
        )
    z = z if z.dtype in (torch.float32, torch.float64) else z.float()
    # (b, n, f)
    spectrum = torch.view_as_complex(expand(z, config).permute(0, 3, 2, 1).contiguous())
    if config.normalized:
        spectrum = spectrum * config.n_fft**0.5
    # irfft pads the dropped Nyquist bin with zero
    synthesis = window(config, z.dtype, z.device)
    pieces = torch.fft.irfft(spectrum, n=config.n_fft, dim=-1) * synthesis
    total = _overlap_add(pieces.transpose(1, 2), config)
    envelope = _overlap_add(synthesis.square()[None, :, None].expand(1, -1, z.shape[3]), config)
    start = config.n_fft - config.hop if config.causal else config.n_fft // 2
    part = slice(start, start + length)
    return total[:, part] / envelope[:, part].clamp_min(_ENVELOPE_FLOOR)


def compress(spectrum: Tensor, config: StftConfig) -> Tensor:
    """``scale |S|^exponent e^{j angle S}`` (or ``scale log(1 + |S|) e^{j angle S}``) of ``(b, 2, f,
    n)`` real and imaginary parts; 0 stays 0 with a finite gradient.
    """
    if config.compression == "log":
        magnitude = _magnitude(spectrum, _LINEAR_BELOW)
        return spectrum * (config.scale * magnitude.log1p() / magnitude)
    return spectrum * (config.scale * _magnitude(spectrum, _LINEAR_BELOW) ** (config.exponent - 1))


def expand(z: Tensor, config: StftConfig) -> Tensor:
    """Inverse of ``compress``, exact everywhere."""
    z = z / config.scale
    if config.compression == "log":
        magnitude = _magnitude(z, _LINEAR_BELOW)
        return z * (magnitude.expm1() / magnitude)
    return z * _magnitude(z, _LINEAR_BELOW**config.exponent) ** (1 / config.exponent - 1)


def _magnitude(z: Tensor, floor: float) -> Tensor:
    return z.square().sum(1, keepdim=True).clamp_min(floor**2).sqrt()


def _overlap_add(pieces: Tensor, config: StftConfig) -> Tensor:
    """``(b, n_fft, n)`` windows to their sum ``(b, (n - 1) hop + n_fft)``."""
    length = (pieces.shape[2] - 1) * config.hop + config.n_fft
    return F.fold(pieces, (1, length), (1, config.n_fft), stride=(1, config.hop))[:, 0, 0]
