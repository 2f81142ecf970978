"""The log-Mel front ends of text-to-speech systems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.audio.mel import LOG_FLOOR, hertz_to_mel, mel_to_hertz
from mfdistill.config import check_ranges
from mfdistill.errors import UserError


@dataclass(frozen=True)
class SpeechMelConfig:
    """A log-Mel spectrogram of magnitudes, the window (Hann) as long as the transform."""

    sample_rate: int = 24000
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 100
    f_max: float | None = None
    """Hz; None: half the sample rate."""
    scale: Literal["htk", "slaney"] = "slaney"
    """htk: triangles of height 1 on HTK's scale, frames centred; slaney: triangles of equal area on
    Slaney's, ``(n_fft - hop) / 2`` samples reflected at either end.
    """
    floor: float = LOG_FLOOR
    """Smallest magnitude whose logarithm is taken."""
    rounded: bool = False
    """As many frames as hops fit into the samples, to the nearest number, where there is one more
    otherwise (lhotse's rule).
    """

    def __post_init__(self) -> None:
        check_ranges(
            self, "mel: ", sample_rate=(1, 1e6), n_fft=(-math.inf, 16384), n_mels=(-math.inf, 1024),
            floor=(1e-30, 1),
        )  # fmt: skip
        if self.hop < 1 or self.n_fft < self.hop or self.n_mels < 1:
            raise UserError(
                f"mel: n_fft {self.n_fft}, hop {self.hop}, n_mels {self.n_mels}: needed n_fft >= hop >= 1 and n_mels >= 1"
            )
        if self.f_max is not None and not 0 < self.f_max <= self.sample_rate / 2:
            raise UserError(
                f"mel: f_max {self.f_max:g} Hz must be above 0 and at most half the sample rate, {self.sample_rate / 2:g} Hz"
            )

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def frames(self, samples: int) -> int:
        """Of so many samples."""
        whole = 1 + (samples + 2 * self.padding - self.n_fft) // self.hop
        return min(whole, (samples + self.hop // 2) // self.hop) if self.rounded else whole

    @property
    def padding(self) -> int:
        """Samples reflected at either end."""
        return self.n_fft // 2 if self.scale == "htk" else (self.n_fft - self.hop) // 2


def speech_log_mel(wave: Tensor, config: SpeechMelConfig) -> Tensor:
    """``ln max(m, floor)`` of Mel magnitudes, (b, n_mels, n), of a waveform (b, s) at
    ``config.sample_rate`` within [-1, 1].

    Raises:
        UserError: too short to be reflected at its ends.
    """
    if wave.ndim != 2 or wave.shape[1] <= config.padding:
        raise UserError(
            f"audio: shape {tuple(wave.shape)}; a Mel spectrogram needs (batch, samples), more than {config.padding} samples"
        )
    wave = wave if wave.dtype in (torch.float32, torch.float64) else wave.float()
    padded = F.pad(wave[:, None], (config.padding, config.padding), mode="reflect")[:, 0]
    if padded.shape[1] < config.n_fft:
        raise UserError(
            f"audio: {wave.shape[1]} samples do not fill one window of {config.n_fft}; give a longer recording"
        )
    window = torch.hann_window(config.n_fft, dtype=wave.dtype, device=wave.device)
    spectrum = torch.stft(
        padded, config.n_fft, config.hop, window=window, center=False, return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    magnitude = spectrum.abs() if config.scale == "htk" else (power + 1e-9).sqrt()
    mel = torch.matmul(speech_filterbank(config).to(magnitude), magnitude)[
        :, :, : config.frames(wave.shape[1])
    ]
    return mel.clamp(min=config.floor).log()


@lru_cache(maxsize=8)
def speech_filterbank(config: SpeechMelConfig) -> Tensor:
    """Triangles (n_mels, n_fft // 2 + 1), computed in the precision of torchaudio's (htk: single)
    and librosa's (double).
    """
    dtype = torch.float32 if config.scale == "htk" else torch.float64
    top = torch.tensor(config.f_max or config.sample_rate / 2, dtype=torch.float64)
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=dtype)
    if config.scale == "htk":
        mels = torch.linspace(
            0, 2595 * math.log10(1 + top.item() / 700), config.n_mels + 2, dtype=dtype
        )
        points = 700 * (10 ** (mels / 2595) - 1)
    else:
        points = mel_to_hertz(
            torch.linspace(0, hertz_to_mel(top).item(), config.n_mels + 2, dtype=dtype)
        )
    distance, widths = points[:, None] - bins[None], points.diff()[:, None]
    triangles = torch.minimum(-distance[:-2] / widths[:-1], distance[2:] / widths[1:]).clamp(min=0)
    return (
        triangles
        if config.scale == "htk"
        else triangles * (2 / (points[2:] - points[:-2]))[:, None]
    )


def prompt_gain(wave: Tensor, target: float = 0.1) -> Tensor:
    """(b, 1) gain that F5-TTS gives a prompt (b, s) before its Mel spectrogram: up to an RMS of
    ``target``, never down. What is generated is divided by it. A silent prompt keeps its level.
    """
    rms = wave.square().mean(1, keepdim=True).sqrt()
    return torch.where(
        (rms > 0) & (rms < target), target / rms.clamp(min=1e-12), torch.ones_like(rms)
    )
