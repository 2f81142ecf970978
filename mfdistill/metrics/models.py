"""Metrics that are networks: speaker similarity (Resemblyzer) and DNSMOS (speechmos); both ship
their weights and run on the CPU.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mfdistill.audio.speaker import MIN_S, MODEL_RATE, NoVoice, speaker_embedding
from mfdistill.metrics.base import Undefined, Wave, load_package, peak_limited, resampled

_EMBEDDINGS: dict[str, Wave] = {}  # of references: a search scores the same ones for every schedule
_KEPT = 4096


def _embedding(wave: Wave, sample_rate: int) -> Wave:
    try:
        return speaker_embedding(wave, sample_rate)
    except NoVoice as error:
        raise Undefined(str(error)) from error


def _reference_embedding(wave: Wave, sample_rate: int) -> Wave:
    wave = np.ascontiguousarray(wave)
    key = hashlib.sha1(wave.tobytes()).hexdigest() + f"{wave.dtype}{sample_rate}"
    if key not in _EMBEDDINGS:
        if len(_EMBEDDINGS) >= _KEPT:
            _EMBEDDINGS.clear()
        _EMBEDDINGS[key] = _embedding(wave, sample_rate)
    return _EMBEDDINGS[key]


def spksim(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Cosine between the Resemblyzer embeddings of estimate and reference, 0 to 1 (embeddings are
    not negative).

    Raises:
        Undefined: no voice in one of them.
    """
    wanted = _reference_embedding(reference, sample_rate)
    return {"spksim": float(np.clip(np.dot(_embedding(estimate, sample_rate), wanted), -1.0, 1.0))}


def dnsmos(estimate: Wave, reference: Wave | None, sample_rate: int) -> dict[str, float]:
    """DNSMOS P.835 (Reddy et al. 2022) of the estimate alone: speech, background and overall
    quality, about 1 to 5.

    Scaled down where the peak is above 1; other rates resampled to 16 kHz, so 8 kHz audio scores as
    the band-limited speech that it is.

    Raises:
        Undefined: silent or shorter than 0.1 s.
    """
    package = load_package("speechmos.dnsmos", "dnsmos")
    wave = peak_limited(resampled(estimate, sample_rate, MODEL_RATE))
    # speechmos repeats a clip until it lasts 9 s: an empty one would never end
    if len(wave) < MIN_S * MODEL_RATE or not wave.any():
        raise Undefined("silent or shorter than 0.1 s")
    scores = package.run(wave, sr=MODEL_RATE)
    return {f"dnsmos_{part}": float(scores[f"{part}_mos"]) for part in ("sig", "bak", "ovrl")}
