"""Pitch: tracks of recordings by pYIN, a melody without its singer as symbols (arXiv
2104.00355), harmonics in Mel bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig
from mfdistill.audio.mel import LOG_FLOOR
from mfdistill.audio.pyin import pyin

PER_OCTAVE = 24
REACH = 36  # symbols above and below the recording's mean: one and a half octaves
PITCHES = 2 * REACH + 2
"""Number of symbols; 0 is unvoiced."""
GAP = 0.03  # of a harmonic's height, left between two


def pitch_track(wave: Tensor, stft: StftConfig, n: int) -> Tensor:
    """Pitch of a recording ``(s,)`` in Hz at its ``n`` frames ``(n,)``, 0 where it is unvoiced."""
    pitch, _ = pyin(wave.detach().cpu().double().numpy(), stft.sample_rate, stft.hop)
    track = torch.from_numpy(pitch).float()[:n]
    return torch.nn.functional.pad(track, (0, n - len(track))).to(wave.device)


def mean_pitch(track: Tensor) -> Tensor:
    """Mean log2 of the pitch ``(n,)`` over voiced frames, ``(1,)``; 0 where there are none."""
    voiced = track[track > 0]
    return voiced.log2().mean()[None] if len(voiced) else track.new_zeros(1)


def pitch_symbols(track: Tensor, frames: int) -> Tensor:
    """Symbols ``(n // frames,)`` of a recording's track ``(n,)``: quarter tones above and below its
    mean, 0 unvoiced.
    """
    count = max(1, len(track) // frames)
    whole = torch.nn.functional.pad(track, (0, max(0, count * frames - len(track))))[
        : count * frames
    ].unflatten(0, (count, frames))
    voiced = (whole > 0).sum(1)
    height = (whole.clamp(min=1).log2() * (whole > 0)).sum(1) / voiced.clamp(min=1) - mean_pitch(
        track
    )
    symbols = (height * PER_OCTAVE).round().clamp(-REACH, REACH).long() + REACH + 1
    return torch.where(2 * voiced >= frames, symbols, torch.zeros_like(symbols))


def sung(symbols: Tensor, mean: Tensor) -> Tensor:
    """Pitch in Hz ``(b, n)`` of symbols ``(b, n)`` in a voice of mean log2 pitch ``(b, 1)``; 0
    where unvoiced, or where the mean is 0.
    """
    pitch = torch.exp2(mean + (symbols - REACH - 1) / PER_OCTAVE)
    return pitch * ((symbols > 0) & (mean > 0))


def harmonics(pitch: Tensor, filterbank: Tensor, stft: StftConfig) -> Tensor:
    """What the harmonics of a pitch in Hz ``(b, n)`` add to a smooth log-Mel spectrogram ``(b,
    mels, n)``: the main lobes of a Hann window at every multiple, against a flat spectrum. 0 where
    the pitch is 0.

    Args:
        filterbank: ``(mels, bins)``.
    """
    hertz = torch.arange(filterbank.shape[1], device=pitch.device) * (stft.sample_rate / stft.n_fft)
    order = hertz[:, None] / pitch[:, None].clamp(min=1)
    # Hz to the nearest harmonic, (b, bins, n)
    away = (order - order.round()).abs() * pitch[:, None]
    width = 2 * stft.sample_rate / stft.n_fft
    lobes = GAP + 0.5 * (1 + torch.cos(torch.pi * away.clamp(max=width) / width))
    lobes = torch.where(pitch[:, None] > 0, lobes, torch.ones_like(lobes))
    filterbank = filterbank.to(lobes)
    return (filterbank @ lobes).clamp(min=LOG_FLOOR).log() - filterbank.sum(1).clamp(
        min=LOG_FLOOR
    ).log()[:, None]
