"""Mel filterbank, log-Mel features, and the Mel operator: what is left of STFT features after a Mel
spectrogram.

The operator is Stream.FM's / MelFlow's (arXiv 2509.15085): ``Y = |(M^+)^T M^T |S||`` on linear
magnitudes, compressed again, zero phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig, stft_features
from mfdistill.config import check_ranges
from mfdistill.errors import UserError

LOG_FLOOR = 1e-5


@dataclass(frozen=True)
class MelConfig:
    """Slaney-scale, area-normalised triangles from ``f_min`` to ``f_max`` Hz (None: half the sample
    rate).
    """

    n_mels: int = 80
    f_min: float = 0.0
    f_max: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "mel.", n_mels=(-math.inf, 1024), f_min=(-math.inf, 1e6))
        if self.n_mels < 1:
            raise UserError(f"mel.n_mels={self.n_mels}: must be at least 1; 80 is usual")
        if self.f_min < 0 or (self.f_max is not None and self.f_max <= self.f_min):
            raise UserError(
                f"mel.f_min={self.f_min}, mel.f_max={self.f_max}: need 0 <= f_min < f_max"
            )


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Slaney's scale: linear ``3 f / 200`` below 1 kHz, logarithmic above."""
    return torch.where(
        hertz < 1000,
        hertz * 3 / 200,
        15 + 27 / math.log(6.4) * (hertz.clamp_min(1e-9) / 1000).log(),
    )


def mel_to_hertz(mel: Tensor) -> Tensor:
    """Inverse of ``hertz_to_mel``."""
    return torch.where(mel < 15, mel * (200 / 3), 1000 * ((mel - 15) * (math.log(6.4) / 27)).exp())


def mel_filterbank(stft: StftConfig, mel: MelConfig | None = None) -> Tensor:
    """Triangles ``(f, n_mels)`` over the ``f = stft.bins`` rows of the features, float32 on the
    CPU.

    The row frequencies are ``f`` equally spaced points from 0 to half the sample rate *inclusive*.
    With the Nyquist row dropped this stretches the axis by 1/(f - 1), 0.4 % at 256 rows;
    Stream.FM's checkpoints hold this quirk, so it is kept. Computed in float32 throughout, as the
    checkpoints' matrix was: the pseudo-inverse magnifies the difference to float64.

    Raises:
        UserError: ``f_max`` above half the sample rate.
    """
    mel = mel or MelConfig()
    nyquist = stft.sample_rate / 2
    f_max = nyquist if mel.f_max is None else mel.f_max
    if f_max > nyquist or mel.f_min >= f_max:
        raise UserError(
            f"mel.f_min={mel.f_min:g}, mel.f_max={f_max:g}: need f_min < f_max <= {nyquist:g}, half the sample rate"
        )
    rows = torch.linspace(0, nyquist, stft.bins)
    ends = hertz_to_mel(torch.tensor([mel.f_min, f_max], dtype=torch.float64)).tolist()
    points = mel_to_hertz(torch.linspace(ends[0], ends[1], mel.n_mels + 2))
    widths = points.diff()
    distance = points[None, :] - rows[:, None]  # (f, n_mels + 2)
    rising, falling = -distance[:, :-2] / widths[:-1], distance[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp_min(0) * (2 / (points[2:] - points[:-2]))


def mel_magnitudes(z: Tensor, filterbank: Tensor, stft: StftConfig) -> Tensor:
    """Linear-magnitude Mel spectrogram ``(b, n_mels, n)`` of compressed features ``(b, 2, f,
    n)``.
    """
    z = z if z.dtype in (torch.float32, torch.float64) else z.float()
    magnitude = (z.square().sum(1).sqrt() / stft.scale) ** (1 / stft.exponent)
    return torch.matmul(filterbank.T.to(magnitude), magnitude)


def mel_to_features(mel: Tensor, inverse: Tensor, stft: StftConfig) -> Tensor:
    """Zero-phase compressed features ``(b, 2, f, n)`` of linear Mel magnitudes ``(b, n_mels, n)``.

    ``inverse (n_mels, f)`` is the filterbank's pseudo-inverse. Negative values are mirrored
    (absolute value), not clamped to zero.
    """
    magnitude = torch.matmul(inverse.T.to(mel), mel).abs()
    # the plain power: bins that the pseudo-inverse leaves near zero are frequent here, and no
    # gradient is wanted
    return torch.stack([stft.scale * magnitude**stft.exponent, torch.zeros_like(magnitude)], 1)


class MelOperator:
    """Features -> Mel -> zero-phase features, with both matrices kept; a call takes and gives ``(b,
    2, f, n)``.

    No gradient is meant to pass: the output is a condition.
    """

    def __init__(self, stft: StftConfig, mel: MelConfig | None = None) -> None:
        self.stft = stft
        self.filterbank = mel_filterbank(stft, mel)
        self.inverse = torch.linalg.pinv(self.filterbank)

    def to(self, device: torch.device | str) -> MelOperator:
        """Move both matrices in place; returns itself."""
        self.filterbank, self.inverse = self.filterbank.to(device), self.inverse.to(device)
        return self

    def mel(self, z: Tensor) -> Tensor:
        """Linear Mel magnitudes ``(b, n_mels, n)`` of features ``(b, 2, f, n)``."""
        return mel_magnitudes(z, self.filterbank.to(z.device), self.stft)

    def __call__(self, z: Tensor) -> Tensor:
        return mel_to_features(self.mel(z), self.inverse.to(z.device), self.stft)


def log_mel(wave: Tensor, stft: StftConfig, mel: MelConfig | None = None) -> Tensor:
    """Natural-log Mel magnitudes ``ln max(m, 1e-5)``, ``(b, n_mels, n)``, of a waveform ``(b,
    s)``.
    """
    filterbank = mel_filterbank(stft, mel).to(wave.device)
    return mel_magnitudes(stft_features(wave, stft), filterbank, stft).clamp_min(LOG_FLOOR).log()
