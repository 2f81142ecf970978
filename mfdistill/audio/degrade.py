"""Degradations of clean speech: additive noise at a signal-to-noise ratio, and gains. (Mel -> STFT
is ``mel.MelOperator``.)

All functions take and give float arrays ``(s,)``; randomness comes in as a ``numpy`` generator,
never from a global state.
"""

from __future__ import annotations

import numpy as np


def rms(wave: np.ndarray) -> float:
    """Root mean square, computed in float64."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if wave.size else 0.0


def apply_gain(wave: np.ndarray, gain_db: float) -> np.ndarray:
    """``10^(gain_db / 20) wave``."""
    return (wave * np.float32(10 ** (gain_db / 20))).astype(np.float32, copy=False)


def fit_length(
    noise: np.ndarray, length: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """``length`` samples of ``noise``: a random part of a longer one, a shorter one repeated from a
    random phase; from 0 without ``rng``.

    Raises:
        ValueError: empty noise.
    """
    if noise.size == 0:
        raise ValueError("the noise is empty")
    if noise.size >= length:
        start = 0 if rng is None else int(rng.integers(noise.size - length + 1))
        return noise[start : start + length]
    start = 0 if rng is None else int(rng.integers(noise.size))
    return np.resize(np.roll(noise, -start), length)


def noise_gain(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> float:
    """Factor ``g`` with ``20 log10(rms(clean) / rms(g noise)) = snr_db``, over the whole of both; 0
    for silent clean or silent noise.
    """
    level = rms(noise)
    return rms(clean) / level * 10 ** (-snr_db / 20) if level > 0 else 0.0


def mix_at_snr(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``clean + g noise`` at ``snr_db``; float32, not clipped (a sum above 1 is the caller's to
    scale, clean and noisy alike).

    Raises:
        ValueError: different lengths (see ``fit_length``).
    """
    if clean.shape != noise.shape:
        raise ValueError(f"clean {clean.shape} and noise {noise.shape} differ in length")
    return (clean + noise_gain(clean, noise, snr_db) * noise).astype(np.float32, copy=False)


def limit_peak(
    clean: np.ndarray, noisy: np.ndarray, peak: float = 0.99
) -> tuple[np.ndarray, np.ndarray]:
    """Both scaled by one factor so that neither exceeds ``peak``; unchanged where they do not."""
    largest = float(max(np.abs(clean).max(initial=0), np.abs(noisy).max(initial=0)))
    if largest <= peak:
        return clean, noisy
    factor = np.float32(peak / largest)
    return clean * factor, noisy * factor
