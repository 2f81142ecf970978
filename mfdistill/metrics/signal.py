"""Metrics that are formulas: SI-SDR and log-spectral distance (numpy only)."""

from __future__ import annotations

import numpy as np

from mfdistill.metrics.base import Column, Metric, Undefined, Wave

# an exact copy would be +inf and take the mean with it; float32 audio ends near 140 dB
SISDR_LIMIT_DB = 100.0
LSD_WINDOW_S, LSD_HOP_S, LSD_RANGE_DB = 0.032, 0.008, 80.0


def sisdr(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Scale-invariant signal-to-distortion ratio in dB, limited to +-100 (Le Roux et al. 2019, eq.
    5; no mean removed, as in SGMSE).

    Raises:
        Undefined: the reference or the estimate is silent.
    """
    s, e = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    energy = float(s @ s)
    if energy == 0.0 or not e.any():
        raise Undefined("the reference is silent" if energy == 0.0 else "the estimate is silent")
    target = (float(e @ s) / energy) * s
    error = e - target
    signal, noise = float(target @ target), float(error @ error)
    if noise == 0.0 or signal == 0.0:
        return {"sisdr": SISDR_LIMIT_DB if noise == 0.0 else -SISDR_LIMIT_DB}
    return {"sisdr": float(np.clip(10 * np.log10(signal / noise), -SISDR_LIMIT_DB, SISDR_LIMIT_DB))}


def power_spectrogram(wave: Wave, sample_rate: int) -> Wave:
    """|STFT|^2 (frames, bins) with a Hann window of 32 ms every 8 ms; the end is padded with zeros
    so that every sample counts.
    """
    size, hop = max(2, round(LSD_WINDOW_S * sample_rate)), max(1, round(LSD_HOP_S * sample_rate))
    length = size + max(0, -(-(len(wave) - size) // hop)) * hop
    wave = np.pad(np.asarray(wave, dtype=np.float64), (0, length - len(wave)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    # nowhere zero: a lone sample still has a spectrum
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    return np.abs(np.fft.rfft(frames * window, axis=-1)) ** 2


def lsd(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Log-spectral distance in dB: root mean square over bins of 10 log10(P_reference /
    P_estimate), averaged over frames.

    Powers below the reference's loudest bin by more than 80 dB count as that floor, so that digital
    silence does not decide. A gain of g dB has a distance of |g|. (Gray and Markel 1976; papers
    that leave out the factor 10 give a tenth of this.)

    Raises:
        Undefined: the reference is silent.
    """
    wanted, got = (
        power_spectrogram(reference, sample_rate),
        power_spectrogram(estimate, sample_rate),
    )
    floor = float(wanted.max()) * 10 ** (-LSD_RANGE_DB / 10)
    if floor == 0.0:
        raise Undefined("the reference is silent")
    difference = 10 * np.log10(np.maximum(wanted, floor) / np.maximum(got, floor))
    return {"lsd": float(np.mean(np.sqrt(np.mean(difference**2, axis=-1))))}


SISDR = Metric("sisdr", (Column("sisdr", "SI-SDR", +1, 2, "dB", resolution=0.1),), sisdr)
LSD = Metric("lsd", (Column("lsd", "LSD", -1, 2, "dB", resolution=0.05),), lsd)
