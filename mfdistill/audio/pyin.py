"""pYIN tracks (Mauch and Dixon, 2014) of waveforms, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfdistill.extras import needed

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0


def pyin(wave: NDArray[np.floating], sample_rate: int, hop: int) -> tuple[Any, Any]:
    """Pitch in Hz, 0 where unvoiced, and the probability of being voiced, of a waveform ``(s,)``
    every ``hop`` samples: ``(1 + s // hop,)`` each.

    Raises:
        UserError: librosa is not installed.
    """
    librosa = needed("librosa", "pitch")
    # about 50 ms: three periods of the lowest voice
    size = 1 << (sample_rate // 25).bit_length()
    pitch, voiced, probability = librosa.pyin(
        np.asarray(wave, dtype=np.float64),
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
        sr=sample_rate,
        frame_length=size,
        hop_length=hop,
        # in semitones; finer ones take four times as long
        resolution=0.25,
        n_thresholds=30,
    )
    return np.where(voiced, pitch, 0.0), probability
