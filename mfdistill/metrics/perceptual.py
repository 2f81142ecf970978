"""PESQ and ESTOI from their reference packages."""

from __future__ import annotations

import warnings

import numpy as np

from mfdistill.metrics.base import (
    Column,
    Metric,
    Undefined,
    Wave,
    load_package,
    pinned_numpy,
    resampled,
)


def pesq_mode(sample_rate: int) -> str:
    """P.862.1 narrow band ("nb") at 8 kHz, P.862.2 wide band ("wb", resampled to 16 kHz) at every
    other rate; the scales do not compare.
    """
    return "nb" if sample_rate == 8000 else "wb"


def pesq(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """PESQ MOS-LQO, mode as in `pesq_mode`.

    Raises:
        Undefined: PESQ finds no speech, or the audio is shorter than a quarter of a second.
    """
    package = load_package("pesq", "pesq")
    mode = pesq_mode(sample_rate)
    rate = 8000 if mode == "nb" else 16000
    reference, estimate = (
        resampled(reference, sample_rate, rate),
        resampled(estimate, sample_rate, rate),
    )
    if not (reference.any() and estimate.any()):
        raise Undefined("silent audio")
    # the C code asks for this much and crashes on some shorter inputs
    if len(reference) < rate // 4:
        raise Undefined("shorter than 0.25 s")
    try:
        return {"pesq": float(package.pesq(rate, reference, estimate, mode))}
    except (package.NoUtterancesError, package.BufferTooShortError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise Undefined(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def estoi(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), computed at 10 kHz.

    Raises:
        Undefined: less than about 0.4 s of speech remains once silent frames are removed.
    """
    package = load_package("pystoi", "estoi")
    if not np.any(reference):
        raise Undefined("the reference is silent")
    if len(reference) < 0.4 * sample_rate:
        raise Undefined("shorter than 0.4 s")
    reference, estimate = (
        np.asarray(reference, dtype=np.float64),
        np.asarray(estimate, dtype=np.float64),
    )
    with pinned_numpy(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return {"estoi": float(package.stoi(reference, estimate, sample_rate, extended=True))}
        except RuntimeWarning as error:  # it would return 1e-5, which is no measurement
            raise Undefined(str(error).split(" Please")[0]) from error


# P.862's own code holds 50 stretches of speech and writes beyond: minutes of speech crash it
PIECE_S = 30.0
PESQ = Metric(
    "pesq",
    (Column("pesq", "PESQ", +1, 2, "MOS-LQO", resolution=0.02),),
    pesq,
    ("pesq",),
    worker=True,
    piece_s=PIECE_S,
)
ESTOI = Metric(
    "estoi", (Column("estoi", "ESTOI", +1, 3, resolution=0.005),), estoi, ("pystoi",), worker=True
)
