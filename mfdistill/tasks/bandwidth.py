"""Bandwidth extension."""

from __future__ import annotations

import numpy as np

from mfdistill.audio.features import StftConfig
from mfdistill.tasks.base import Restoration
from mfdistill.tasks.config import TaskConfig

# what is known of Stream.FM's spread at 16 kHz: its values at these frequencies in parts of the
# Nyquist frequency
_KNOWN = {0.0: 0.0187, 0.125: 0.068, 0.25: 0.15, 1.0: 0.2}
SPREAD = 3.0
"""Of the prior, in units of the profile (the estimated standard deviation of a band)."""


class Bandwidth(Restoration):
    """Band-limited speech, already at the full sample rate, to speech of the whole band."""

    # the input says the phases, so the waveform is compared too
    finishing = {"log_mel": 1.0, "time_l1": 1.0}
    about = "bandwidth extension (band-limited speech in, full-band speech out)"
    degradation = "bandwidth"


def bandwidth_preset(stft: StftConfig) -> TaskConfig:
    """A spread for every frequency, three times what is missing there, through Stream.FM's
    published values; ``teacher-train --spread data`` measures it on the corpus instead.
    """
    at = np.arange(stft.bins) / (stft.n_fft / 2)
    profile = np.interp(at, list(_KNOWN), [value / SPREAD for value in _KNOWN.values()])
    numbers = tuple(float(f"{value:.3g}") for value in profile)
    return TaskConfig(
        "bandwidth",
        stft,
        sigma_0=SPREAD,
        prior_mean="y",
        prior_shape="profile",
        prior_profile=numbers,
    )
