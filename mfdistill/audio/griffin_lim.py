"""Phase for magnitudes by Griffin and Lim's iterations (1984), with Perraudin's acceleration (2013): a vocoder without a network."""

from __future__ import annotations

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig, inverse_features, stft_features


def griffin_lim(z: Tensor, config: StftConfig, length: int, iterations: int = 32, momentum: float = 0.9, seed: int = 0) -> Tensor:
    """Waveform ``(b, length)`` whose features have the magnitudes of ``z (b, 2, f, n)``; the first phases are a function of ``seed``."""
    magnitude = z.square().sum(1, keepdim=True).sqrt()
    angle = torch.rand(z[:, :1].shape, generator=torch.Generator().manual_seed(seed)).to(z) * 2 * torch.pi
    state = magnitude * torch.cat([angle.cos(), angle.sin()], 1)
    before = torch.zeros_like(state)
    for _ in range(iterations):
        wave = inverse_features(state, config, length)
        now = stft_features(wave, config)[..., : z.shape[-1]]
        now = torch.nn.functional.pad(now, (0, z.shape[-1] - now.shape[-1]))
        ahead = now + momentum * (now - before)
        before = now
        state = magnitude * ahead / ahead.square().sum(1, keepdim=True).sqrt().clamp(min=1e-8)
    return inverse_features(state, config, length)
