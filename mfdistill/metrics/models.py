"""Metrics that are networks: speaker similarity (Resemblyzer), DNSMOS and PLCMOS (speechmos); all
ship their weights and run on the CPU.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mfdistill.audio.speaker import MIN_S, MODEL_RATE, NoVoice, speaker_embedding
from mfdistill.metrics.base import (
    Column,
    Metric,
    Undefined,
    Wave,
    load_package,
    peak_limited,
    pinned_numpy,
    resampled,
)

_EMBEDDINGS: dict[str, Wave] = {}  # a search scores the same references for every schedule
_KEPT = 4096


def embedding(wave: Wave, sample_rate: int) -> Wave:
    """Resemblyzer's embedding (256,), kept by content.

    Raises:
        Undefined: no voice in it.
    """
    wave = np.ascontiguousarray(wave)
    key = hashlib.sha1(wave.tobytes()).hexdigest() + f"{wave.dtype}{sample_rate}"
    if key not in _EMBEDDINGS:
        if len(_EMBEDDINGS) >= _KEPT:
            _EMBEDDINGS.clear()
        try:
            _EMBEDDINGS[key] = speaker_embedding(wave, sample_rate)
        except NoVoice as error:
            raise Undefined(str(error)) from error
    return _EMBEDDINGS[key]


def spksim(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Cosine between the Resemblyzer embeddings of estimate and reference, 0 to 1 (embeddings are
    not negative).

    Raises:
        Undefined: no voice in one of them.
    """
    wanted, got = embedding(reference, sample_rate), embedding(estimate, sample_rate)
    return {"spksim": float(np.clip(np.dot(got, wanted), -1.0, 1.0))}


def dnsmos(estimate: Wave, reference: Wave | None, sample_rate: int) -> dict[str, float]:
    """DNSMOS P.835 (Reddy et al. 2022) of the estimate alone: speech, background and overall
    quality, about 1 to 5.

    Scaled down where the peak is above 1; other rates resampled to 16 kHz, so 8 kHz audio scores as
    the band-limited speech that it is.

    Raises:
        Undefined: silent or shorter than 0.1 s.
    """
    package = load_package("speechmos.dnsmos", "dnsmos")
    # speechmos repeats a clip until it lasts 9 s: an empty one would never end
    scores = package.run(judgeable(estimate, sample_rate), sr=MODEL_RATE)
    return {f"dnsmos_{part}": float(scores[f"{part}_mos"]) for part in ("sig", "bak", "ovrl")}


def plcmos(estimate: Wave, reference: Wave | None, sample_rate: int) -> dict[str, float]:
    """PLCMOS v2 (Diener et al. 2023) of the estimate alone: quality as heard where pieces are
    missing or patched, about 1 to 5; level and other rates as of ``dnsmos``.

    The network judges as a listener drawn at random; the same 15 are asked each time.

    Raises:
        Undefined: silent or shorter than 0.1 s.
    """
    package = load_package("speechmos.plcmos", "plcmos")
    with pinned_numpy():
        return {
            "plcmos": float(package.run(judgeable(estimate, sample_rate), sr=MODEL_RATE)["plcmos"])
        }


def judgeable(wave: Wave, sample_rate: int) -> Wave:
    """``wave`` (s,) at 16 kHz with a peak of at most 1, as speechmos wants it.

    Raises:
        Undefined: silent or shorter than 0.1 s.
    """
    wave = peak_limited(resampled(wave, sample_rate, MODEL_RATE))
    if len(wave) < MIN_S * MODEL_RATE or not wave.any():
        raise Undefined("silent or shorter than 0.1 s")
    return wave


RESEMBLYZER = ("resemblyzer", "webrtcvad", "pkg_resources", "librosa")
SPEECHMOS = ("speechmos", "onnxruntime", "librosa", "requests")

SPKSIM = Metric(
    "spksim",
    (Column("spksim", "SpkSim", +1, 3, resolution=0.005),),
    spksim,
    RESEMBLYZER,
    voice=True,
)
DNSMOS = Metric(
    "dnsmos",
    (
        Column("dnsmos_sig", "DNSMOS SIG", +1, 2, "MOS", resolution=0.02, minor=True),
        Column("dnsmos_bak", "DNSMOS BAK", +1, 2, "MOS", resolution=0.02, minor=True),
        Column("dnsmos_ovrl", "DNSMOS OVRL", +1, 2, "MOS", resolution=0.02),
    ),
    dnsmos,
    SPEECHMOS,
)
PLCMOS = Metric(
    "plcmos",
    (Column("plcmos", "PLCMOS", +1, 2, "MOS", resolution=0.02),),
    plcmos,
    SPEECHMOS,
    piece_s=60.0,
)
