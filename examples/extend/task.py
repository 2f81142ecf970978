"""A task in one file: speech above a quarter of the sample rate's half, out of what lies below."""

from __future__ import annotations

import torch
from torch import Tensor

from mfdistill.audio.features import StftConfig
from mfdistill.tasks import Restoration, TaskConfig


class Upper(Restoration):
    """The condition is the spectrogram with its upper half set to zero; no noise is added to
    data.
    """

    degradation = "none"

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        low = (torch.arange(z.shape[2], device=z.device) < z.shape[2] // 2).to(z)
        return {"y": z * low[:, None]}

    def degrade(self, clean: Tensor) -> Tensor:
        gain = self.gain(clean)
        return self.waveform(self.condition(clean * gain)["y"], clean.shape[-1]) / gain


def preset(stft: StftConfig) -> TaskConfig:
    return TaskConfig("upper", stft, sigma_0=0.3, prior_mean="y", prior_shape="flat")


TASKS = {"upper": (Upper, preset)}
