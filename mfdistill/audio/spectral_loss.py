"""How far two signals are apart in magnitude, whatever their phases: a differentiable loss over
several resolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOWS_S = (0.016, 0.032, 0.064)
FLOOR = 1e-3


def spectral_loss(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Multi-resolution STFT loss (Parallel WaveGAN, arXiv 1910.11480, eqs. 4-6): spectral
    convergence plus mean log-magnitude difference.

    Args:
        estimate, reference: (b, samples), of the same level; sample_rate: Hz.

    Returns:
        (b,) mean over Hann windows of 16, 32 and 64 ms, a quarter of them apart. Magnitudes of a
        unit-power signal are about 1; the log starts at 1e-3 of that, so that silence weighs
        nothing.
    """
    parts = []
    for seconds in WINDOWS_S:
        size = round(sample_rate * seconds / 4) * 4
        a, b = (_magnitude(wave, size) for wave in (estimate, reference))
        distance = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp_min(FLOOR)
        parts.append(distance + (a.log() - b.log()).abs().flatten(1).mean(1))
    return torch.stack(parts).mean(0)


def _magnitude(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    z = (
        torch.stft(wave, size, size // 4, window=window, normalized=False, return_complex=True)
        / window.norm()
    )
    return (z.real.square() + z.imag.square() + FLOOR**2).sqrt()
