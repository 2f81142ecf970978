"""What happened to the voice's vibration: pitch, voicing decisions and periodicity, from pYIN
tracks of both recordings.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mfdistill.audio.pyin import pyin
from mfdistill.metrics.base import Column, Metric, Undefined, Wave

HOP_S = 0.01
MIN_S = 0.1
_TRACKS: dict[str, tuple[Wave, Wave]] = {}  # of references: every system is compared with the same
_KEPT = 1024


def voicing(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Over frames of 10 ms, as CARGAN (Morrison et al. 2022) and Vocos evaluate vocoders, with pYIN
    in place of CREPE:

    - ``pitch_error``: root mean square difference of pitch in cents over the frames that are voiced
      in both (nan without such frames); octave errors count in full.
    - ``vuv_f1``: F1 of the voiced frames.
    - ``periodicity``: root mean square difference of the probability of being voiced.

    Raises:
        Undefined: silent, shorter than 0.1 s, or no voiced frame in the reference.
    """
    if len(reference) < MIN_S * sample_rate or not np.any(reference):
        raise Undefined("silent or shorter than 0.1 s")
    wanted, wanted_voiced = _reference_track(reference, sample_rate)
    got, got_voiced = _track(estimate, sample_rate)
    a, b = wanted > 0, got > 0
    if not a.any():
        raise Undefined("no voiced frame in the reference")
    both = a & b
    cents = 1200 * np.log2(got[both] / wanted[both])
    return {
        "pitch_error": float(np.sqrt(np.mean(cents**2))) if both.any() else float("nan"),
        "vuv_f1": float(2 * both.sum() / (a.sum() + b.sum())),
        "periodicity": float(np.sqrt(np.mean((wanted_voiced - got_voiced) ** 2))),
    }


def _track(wave: Wave, sample_rate: int) -> tuple[Wave, Wave]:
    if not np.any(wave):
        frames = 1 + len(wave) // round(HOP_S * sample_rate)
        return np.zeros(frames), np.zeros(frames)
    return pyin(wave, sample_rate, round(HOP_S * sample_rate))


def _reference_track(wave: Wave, sample_rate: int) -> tuple[Wave, Wave]:
    wave = np.ascontiguousarray(wave)
    key = hashlib.sha1(wave.tobytes()).hexdigest() + f"{wave.dtype}{sample_rate}"
    if key not in _TRACKS:
        if len(_TRACKS) >= _KEPT:
            _TRACKS.clear()
        _TRACKS[key] = _track(wave, sample_rate)
    return _TRACKS[key]


VOICING = Metric(
    "voicing",
    (
        Column("pitch_error", "pitch error", -1, 1, "cents", resolution=1.0),
        Column("vuv_f1", "V/UV F1", +1, 3, resolution=0.005),
        Column("periodicity", "periodicity error", -1, 3, resolution=0.002),
    ),
    voicing,
    ("librosa",),
    worker=True,
    piece_s=60.0,
)
