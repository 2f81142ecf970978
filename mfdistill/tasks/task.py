"""What a restoration task is: how the condition is made from audio, in which features, and from which prior the flow starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig, inverse_features, padded_length, stft_features
from mfdistill.audio.mel import MelConfig, MelOperator
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath


@dataclass(frozen=True)
class TaskConfig:
    """A task by its numbers. ``normalise`` is the level that features are made at: 'peak' of the degraded signal, or 'none'.

    ``whole_hops``: signals are padded to whole hops, which keeps the last samples from lying under the end of one window; SGMSE, FlowSE and
    MeanFlowSE do not. ``frame_multiple``: features get frames of zeros at the end up to a multiple of it (theirs is 64).
    """

    name: Literal["enhance", "vocode"] = "enhance"
    stft: StftConfig = field(default_factory=StftConfig)
    sigma_0: float = 0.3
    sigma_1: float = 0.001
    prior_mean: Literal["y", "e", "zero"] = "y"
    prior_shape: Literal["flat", "magnitude", "profile"] = "flat"
    prior_floor: float = 0.02
    prior_profile: tuple[float, ...] = ()
    n_mels: int = 80
    normalise: Literal["peak", "none"] = "peak"
    whole_hops: bool = True
    frame_multiple: int = 1


class Task:
    """One task. Waveforms are ``(b, samples)``, features ``(b, 2, f, n)``; ``cond`` is ``{"y": features}``."""

    def __init__(self, config: TaskConfig):
        self.config = config
        self.sample_rate = config.stft.sample_rate
        self.path = GaussianPath(
            config.sigma_0, config.sigma_1, config.prior_mean, config.prior_shape, config.prior_floor, config.prior_profile
        )

    needs_noisy = True

    def gain(self, degraded: Tensor) -> Tensor:
        """Factor ``(b, 1)`` that brings the degraded signal to the level the features are made at; silence keeps its level."""
        if self.config.normalise == "none":
            return torch.ones_like(degraded[:, :1])
        peak = degraded.abs().amax(-1, keepdim=True)
        return torch.where(peak < 1e-6, torch.ones_like(peak), 1 / peak.clamp_min(1e-6))

    def features(self, wave: Tensor) -> Tensor:
        """``(b, samples) -> (b, 2, f, n)``; the end is padded as the configuration says."""
        z = stft_features(torch.nn.functional.pad(wave, (0, self._length(wave.shape[-1]) - wave.shape[-1])), self.config.stft)
        return torch.nn.functional.pad(z, (0, -z.shape[-1] % self.config.frame_multiple))

    def _length(self, length: int) -> int:
        """Samples that are transformed; reflection needs more than half a window of them."""
        stft = self.config.stft
        return padded_length(length, stft) if self.config.whole_hops else max(length, stft.n_fft // 2 + 1)

    def target(self, clean: Tensor) -> Tensor:
        """Features of the clean signal (already at the task's level)."""
        return self.features(clean)

    def condition(self, degraded: Tensor) -> dict[str, Tensor]:
        """The conditioning of the networks from the degraded signal (already at the task's level)."""
        return self.observe(self.features(degraded))

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        """The same from the degraded signal's features ``(b, 2, f, n)``, every frame by itself."""
        return {"y": z}

    def degrade(self, clean: Tensor) -> Tensor:
        """What the task's input sounds like, from what it is given; enhancement is given its noisy input."""
        return clean

    def waveform(self, z_1: Tensor, length: int) -> Tensor:
        """Features ``(b, 2, f, n)`` back to ``(b, length)``."""
        return inverse_features(z_1, self.config.stft, self._length(length))[..., :length]


class Enhance(Task):
    """Noisy speech to clean speech; the flow starts at the noisy features with Gaussian spread (as SGMSE, FlowSE, Stream.FM)."""


class Vocode(Task):
    """Mel magnitudes to speech: the condition is the pseudo-inverted Mel magnitude at zero phase (as MelFlow).

    The input of ``condition`` is a waveform whose phase is never used.
    """

    needs_noisy = False

    def __init__(self, config: TaskConfig):
        super().__init__(config)
        self.mel = MelOperator(config.stft, MelConfig(n_mels=config.n_mels))

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        return {"y": self.mel(z)}

    def degrade(self, clean: Tensor) -> Tensor:
        """The zero-phase signal of the Mel magnitudes: what is heard when nothing restores the phase."""
        gain = self.gain(clean)
        return self.waveform(self.condition(clean * gain)["y"], clean.shape[-1]) / gain


TASKS: dict[str, type[Task]] = {"enhance": Enhance, "vocode": Vocode}


def get_task(config: TaskConfig) -> Task:
    """The task of a configuration.

    Raises:
        UserError: no such task.
    """
    if config.name not in TASKS:
        raise UserError(f"task '{config.name}' is unknown; this version has: {', '.join(TASKS)}")
    return TASKS[config.name](config)


def default_task(name: str, sample_rate: int = 16000) -> TaskConfig:
    """The preset of a task at 8 or 16 kHz (windows of 32 ms, hops of 16 ms).

    Raises:
        UserError: no such task, or a sample rate without a preset.
    """
    if sample_rate not in (8000, 16000):
        raise UserError(f"sample_rate {sample_rate}: presets exist for 8000 and 16000; resample or give the task's stft yourself")
    n_fft = sample_rate * 32 // 1000
    stft = StftConfig(sample_rate=sample_rate, n_fft=n_fft, hop=n_fft // 2)
    if name == "vocode":
        return TaskConfig("vocode", replace(stft, window="hann"), sigma_0=1.0, prior_mean="zero", prior_shape="magnitude")
    if name == "enhance":
        return TaskConfig("enhance", stft, sigma_0=0.1, prior_mean="y", prior_shape="magnitude")
    raise UserError(f"task '{name}' is unknown; this version has: {', '.join(TASKS)}")
