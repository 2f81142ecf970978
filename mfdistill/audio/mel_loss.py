"""How far two signals are apart in their log-Mel spectrograms at several resolutions: a
differentiable loss that no phase enters.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig
from mfdistill.audio.mel import MelConfig, mel_filterbank

WINDOWS_S = (0.008, 0.016, 0.032, 0.064, 0.128)
"""64 to 1024 samples at 8 kHz."""
FLOOR = 1e-4


def log_mel_loss(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Multi-scale log-Mel L1, as Flow2GAN (arXiv 2512.23278), PeriodWave-Turbo and neural codecs
    train generators with.

    Args:
        estimate, reference: (b, samples), of the same level; sample_rate: Hz.

    Returns:
        (b,) mean over ``WINDOWS_S`` (Hann windows, a quarter of them apart) of the mean
        ``|ln a - ln b|`` over Mel bands. Magnitudes of a unit-power signal are about 1; the
        logarithm starts at 1e-4 of that.
    """
    parts = []
    for seconds in WINDOWS_S:
        size = round(sample_rate * seconds / 4) * 4
        a, b = (_log_mel(wave, size, sample_rate) for wave in (estimate, reference))
        parts.append((a - b).abs().flatten(1).mean(1))
    return torch.stack(parts).mean(0)


def _log_mel(wave: Tensor, size: int, sample_rate: int) -> Tensor:
    """(b, bands, n)"""
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    z = torch.stft(wave, size, size // 4, window=window, return_complex=True) / window.norm()
    # inside the root, so that its gradient is finite in silence
    magnitude = (z.real.square() + z.imag.square() + FLOOR**2).sqrt()
    return torch.matmul(filterbank(size, sample_rate).to(magnitude), magnitude).log()


@lru_cache(maxsize=16)
def filterbank(size: int, sample_rate: int) -> Tensor:
    """Triangles (bands, size // 2 + 1), 5 bands for 32 samples of the window, each of sum 1: a
    band's value is a mean magnitude.
    """
    stft = StftConfig(sample_rate=sample_rate, n_fft=size, hop=size // 4, drop_nyquist=False)
    triangles = mel_filterbank(stft, MelConfig(n_mels=size * 5 // 32)).T
    return triangles / triangles.sum(1, keepdim=True)
