"""The task of text-to-speech flows of other systems (F5-TTS, CosyVoice, Matcha-TTS): from noise to
a Mel spectrogram.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from mfdistill.audio.speech_mel import SPEECH_MELS, SpeechMelConfig, speech_log_mel
from mfdistill.errors import UserError
from mfdistill.flow import CHANNEL_STD
from mfdistill.tasks.base import Task

ForeignName = Literal["f5", "f5-unett", "cosyvoice2", "cosyvoice3", "matcha"]
FOREIGN_TASKS = ("f5", "f5-unett", "cosyvoice2", "cosyvoice3", "matcha")


@dataclass(frozen=True)
class ForeignTaskConfig:
    """A Mel flow by its numbers."""

    name: ForeignName = "f5"
    """The system whose layout and condition it has."""
    mel: SpeechMelConfig = field(default_factory=SpeechMelConfig)
    mel_mean: float = 0.0
    """What Matcha-TTS subtracts from log-Mels (its ``mel_mean``)."""
    mel_std: float = 1.0
    """What it divides them by."""

    def __post_init__(self) -> None:
        if not self.mel_std > 0:
            raise UserError(f"task mel_std: {self.mel_std} must be above 0")


class MelPath:
    """``z_0`` standard normal noise, ``z_1`` the Mel spectrogram; both 0 on padded frames, as in
    the samplers.
    """

    sigma_0 = 1.0

    def end_points(
        self, x: Tensor, cond: Mapping[str, Tensor], eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Arguments as ``flow.GaussianPath.end_points``: ``eps`` has the variance 1/2 of a complex
        number's channel. The mask is (b, n) beside (b, n, mels), or (b, 1, n) beside (b, mels, n).
        """
        return self.prior(cond, eps), x

    def prior(self, cond: Mapping[str, Tensor], eps: Tensor, t: float = 0.0) -> Tensor:
        """``z_0``; ``t`` is for other paths."""
        noise, mask = eps / CHANNEL_STD, cond.get("mask")
        if mask is None:
            return noise
        return noise * (mask if mask.ndim == eps.ndim else mask[..., None]).to(noise)


class ForeignTask(Task):
    """A Mel flow of another system. It has no waveforms and no condition of its own;
    ``distill.foreign`` makes batches for it.
    """

    degradation = "none"
    config: ForeignTaskConfig  # type: ignore[assignment]

    def __init__(self, config: ForeignTaskConfig):
        self.config = config
        self.sample_rate = config.mel.sample_rate
        self.path = MelPath()  # type: ignore[assignment]

    @property
    def frames_first(self) -> bool:
        """States are (b, n, mels), not (b, mels, n)."""
        return self.config.name in ("f5", "f5-unett")

    def frames(self, samples: int) -> int:
        """Of the Mel spectrogram of so many samples."""
        mel = self.config.mel
        return 1 + (samples + 2 * mel.padding - mel.n_fft) // mel.hop

    def mel(self, wave: Tensor) -> Tensor:
        """Waveform (s,) -> the system's Mel spectrogram (mels, n)."""
        return (
            speech_log_mel(wave[None], self.config.mel)[0] - self.config.mel_mean
        ) / self.config.mel_std

    def features(self, wave: Tensor) -> Tensor:
        self._refuse()

    def condition(self, degraded: Tensor) -> dict[str, Tensor]:
        self._refuse()

    def waveform(self, z_1: Tensor, length: int) -> Tensor:
        self._refuse()

    def gain(self, degraded: Tensor) -> Tensor:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(
            f"a model of {self.config.name} makes Mel spectrograms from text or speech tokens, it does not restore recordings; "
            "see docs/foreign-tts.md for what can be done with it (export, sample)"
        )


def foreign_task(kind: str, mels: int | None = None, **changes: Any) -> ForeignTask:
    """The task of a kind with its published Mel front end (``audio.speech_mel.SPEECH_MELS``).

    Args:
        mels: bands, where they are not the published ones.
        changes: fields of ``ForeignTaskConfig``.
    """
    mel = SPEECH_MELS["f5" if kind == "f5-unett" else kind]
    if mels is not None and mels != mel.n_mels:
        mel = SpeechMelConfig(mel.sample_rate, mel.n_fft, mel.hop, mels, mel.f_max, mel.scale)
    return ForeignTask(ForeignTaskConfig(kind, mel, **changes))  # type: ignore[arg-type]


def pad_frames(parts: list[Tensor], n: int) -> Tensor:
    """(d, m_i) tensors as one (b, d, n), zeros at their ends."""
    return torch.stack(
        [torch.nn.functional.pad(part[:, :n], (0, max(0, n - part.shape[1]))) for part in parts]
    )
