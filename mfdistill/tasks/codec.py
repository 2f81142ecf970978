"""Post-filter of a speech codec."""

from __future__ import annotations

from mfdistill.audio.features import StftConfig
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig


class Codec(Restoration):
    """Decoded speech of a codec at a low bit rate to what went into it."""

    # the input says the phases, so the waveform is compared too
    finishing = {"log_mel": 1.0, "time_l1": 1.0}
    about = "post-filter of a speech codec (decoded speech in, speech as it was coded out)"
    framing = "40/20"  # codecs have frames of 20 ms
    degradation = "codec"


def codec_preset(stft: StftConfig) -> TaskConfig:
    """Stream.FM's spread around the decoded features, for causal and other framing alike."""
    return TaskConfig("codec", stft, sigma_0=0.35, prior_mean="y", prior_shape="flat")
