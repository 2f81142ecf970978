"""Vocoding: Mel spectrogram to speech."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mfdistill.audio.features import StftConfig
from mfdistill.audio.mel import MelConfig, MelOperator
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig


class Vocode(Restoration):
    """Mel magnitudes to speech: the condition is the pseudo-inverted Mel magnitude at zero phase
    (as MelFlow).

    The input of ``condition`` is a waveform whose phase is never used.
    """

    about = "vocoding (Mel spectrogram in, waveform out)"
    degradation = "none"

    def __init__(self, config: TaskConfig):
        super().__init__(config)
        self.mel = MelOperator(config.stft, MelConfig(n_mels=config.n_mels))

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        return {"y": self.mel(z)}

    def degrade(self, clean: Tensor) -> Tensor:
        """The zero-phase signal of the Mel magnitudes: what is heard when nothing restores the
        phase.
        """
        gain = self.gain(clean)
        return self.waveform(self.condition(clean * gain)["y"], clean.shape[-1]) / gain


def bands(stft: StftConfig) -> int:
    """Mel bands: 80 up to 16 kHz, as many as vocoders of 24 kHz (Vocos, BigVGAN: 100) and of 44.1
    and 48 kHz (BigVGAN: 128) have, and 40 for windows of few bins.
    """
    if stft.bins < 128:
        return 40
    return 80 if stft.sample_rate <= 16000 else 100 if stft.sample_rate <= 24000 else 128


def vocode_preset(stft: StftConfig) -> TaskConfig:
    """Causal: Stream.FM's flat spread around the zero-phase Mel features. Otherwise a spread that
    follows their magnitude, around zero.
    """
    stft, n_mels = replace(stft, window="hann"), bands(stft)
    if stft.causal:
        return TaskConfig(
            "vocode", stft, sigma_0=0.25, prior_mean="y", prior_shape="flat", n_mels=n_mels
        )
    return TaskConfig(
        "vocode", stft, sigma_0=1.0, prior_mean="zero", prior_shape="magnitude", n_mels=n_mels
    )
