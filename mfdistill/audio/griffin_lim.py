"""Phase for magnitudes by Griffin and Lim's iterations (1984), with Perraudin's acceleration
(2013): a vocoder without a network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.audio.features import StftConfig, inverse_features, padded_length, stft_features
from mfdistill.audio.mel import LOG_FLOOR
from mfdistill.audio.speech_mel import SpeechMelConfig, speech_filterbank


def griffin_lim(
    z: Tensor,
    config: StftConfig,
    length: int,
    iterations: int = 32,
    momentum: float = 0.9,
    seed: int = 0,
) -> Tensor:
    """Waveform ``(b, length)`` whose features have the magnitudes of ``z (b, 2, f, n)``; the first
    phases are a function of ``seed``.
    """
    magnitude = z.square().sum(1, keepdim=True).sqrt()
    angle = (
        torch.rand(z[:, :1].shape, generator=torch.Generator().manual_seed(seed)).to(z)
        * 2
        * torch.pi
    )
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


def mel_griffin_lim(
    log_mel: Tensor, config: SpeechMelConfig, iterations: int = 32, seed: int = 0
) -> Tensor:
    """Waveform ``(b, (n - 1) hop)``, from the middle of the first frame to that of the last, of the
    log-Mel spectrogram ``(b, n_mels, n)`` of `speech_log_mel`: magnitudes by the filterbank's
    pseudo-inverse, negative ones set to 0, phases by ``griffin_lim``.
    """
    stft = StftConfig(
        config.sample_rate,
        config.n_fft,
        config.hop,
        "hann",
        exponent=1.0,
        drop_nyquist=False,
        normalized=False,
    )
    length = (log_mel.shape[-1] - 1) * config.hop
    # too few frames to be reflected at their ends
    more = padded_length(length, stft) // config.hop + 1 - log_mel.shape[-1]
    mel = F.pad(log_mel.float().exp(), (0, more), value=LOG_FLOOR)
    magnitude = torch.matmul(
        torch.linalg.pinv(speech_filterbank(config).double()).to(mel), mel
    ).clamp(min=0)
    z = torch.stack([magnitude, torch.zeros_like(magnitude)], 1)
    return griffin_lim(z, stft, length + more * config.hop, iterations, seed=seed)[:, :length]
