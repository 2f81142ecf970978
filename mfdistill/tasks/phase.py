"""Phase retrieval: STFT magnitudes to speech."""

from __future__ import annotations

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig


class Phase(Restoration):
    """Magnitudes to speech: the condition is the magnitude of the features at zero phase, ``|X| +
    0j`` (Stream.FM's STFT-PR).

    The input of ``condition`` is a waveform whose phase is never used.
    """

    about = "phase retrieval (STFT magnitudes in, waveform out)"
    degradation = "none"

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        magnitude = z.square().sum(1).sqrt()
        return {"y": torch.stack([magnitude, torch.zeros_like(magnitude)], 1)}

    def degrade(self, clean: Tensor) -> Tensor:
        """The signal of the magnitudes at zero phase: what is heard when nothing restores the
        phase.
        """
        gain = self.gain(clean)
        return self.waveform(self.condition(clean * gain)["y"], clean.shape[-1]) / gain


def phase_preset(stft: StftConfig) -> TaskConfig:
    """Stream.FM's spread around the zero-phase features, for causal and other framing alike."""
    return TaskConfig("phase", stft, sigma_0=0.25, prior_mean="y", prior_shape="flat")
