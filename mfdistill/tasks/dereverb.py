"""Dereverberation."""

from __future__ import annotations

from mfdistill.audio.features import StftConfig
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig


class Dereverb(Restoration):
    """Reverberant speech to speech as it leaves the mouth (the direct path alone)."""

    # the input says the phases, so the waveform is compared too
    finishing = {"log_mel": 1.0, "time_l1": 1.0}
    about = "dereverberation (reverberant speech in, dry speech out)"
    degradation = "reverb"


def dereverb_preset(stft: StftConfig) -> TaskConfig:
    """Stream.FM's spread around the reverberant features, for causal and other framing alike."""
    return TaskConfig("dereverb", stft, sigma_0=0.35, prior_mean="y", prior_shape="flat")
