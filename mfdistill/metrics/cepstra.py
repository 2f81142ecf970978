"""Mel-cepstral distortion: how far apart two spectral envelopes are, frame by frame and with time
warping.
"""

from __future__ import annotations

import numpy as np

from mfdistill.metrics.base import Column, Metric, Undefined, Wave, load_package
from mfdistill.metrics.signal import LSD_RANGE_DB, power_spectrogram

BANDS, ORDER = 40, 13  # Mel bands; coefficients 1 to 13, without the level


def mcd(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Mel-cepstral distortion in dB (Kubichek 1993), of frames at the same time (``mcd``) and along
    the best warping of one onto the other (``mcd_dtw``, for speech whose timing is free).

    A gain changes neither. Powers below the reference's loudest Mel band by more than 80 dB count
    as that floor.

    Raises:
        Undefined: the reference is silent.
    """
    wanted, got = (mel_powers(wave, sample_rate) for wave in (reference, estimate))
    floor = float(wanted.max()) * 10 ** (-LSD_RANGE_DB / 10)
    if floor == 0.0:
        raise Undefined("the reference is silent")
    a, b = (cepstra(np.log(np.maximum(power, floor)) / 2) for power in (wanted, got))
    from scipy.spatial.distance import cdist

    costs = cdist(a, b)
    _, path = load_package("librosa", "mcd").sequence.dtw(C=costs)
    return {
        "mcd_dtw": float(DECIBELS * costs[path[:, 0], path[:, 1]].mean()),
        "mcd": float(DECIBELS * np.linalg.norm(a - b, axis=1).mean()),
    }


# root mean square of 20 log10 |H| over the Mel axis, for a distance of coefficients of ln |H|
DECIBELS = 10 * np.sqrt(2) / np.log(10)


def mel_powers(wave: Wave, sample_rate: int) -> Wave:
    """Powers (frames, 40) in Mel bands up to half the sample rate, every 8 ms."""
    powers = power_spectrogram(wave, sample_rate)
    mel = load_package("librosa", "mcd").filters.mel(
        sr=sample_rate, n_fft=2 * (powers.shape[1] - 1), n_mels=BANDS
    )
    return powers @ np.asarray(mel, dtype=np.float64).T


def cepstra(log_amplitudes: Wave) -> Wave:
    """Coefficients (frames, 13) of the cosine series of natural log amplitudes (frames, bands) over
    the bands, from the first cosine on.
    """
    bands = log_amplitudes.shape[1]
    orders, places = np.arange(1, ORDER + 1), (np.arange(bands) + 0.5) / bands
    return log_amplitudes @ np.cos(np.pi * places[:, None] * orders) * (2 / bands)


MCD = Metric(
    "mcd",
    (
        Column("mcd_dtw", "MCD, warped", -1, 2, "dB", resolution=0.02),
        Column("mcd", "MCD", -1, 2, "dB", resolution=0.02),
    ),
    mcd,
    ("librosa", "scipy"),
    worker=True,
    piece_s=20.0,  # the warping looks at every pair of frames
)
