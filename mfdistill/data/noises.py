"""Synthetic noises for the embedded corpus: functions of a numpy generator, float32 ``(size,)`` of
RMS 1.
"""

from __future__ import annotations

import numpy as np


def coloured(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Gaussian noise whose power falls as ``1 / f^slope``: 0 white, 1 pink, 2 brown (flat below a
    thousandth of the rate).
    """
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size)
    return unit(np.fft.irfft(spectrum * np.maximum(frequency, 1e-3) ** (-slope / 2), n=size))


def band(rng: np.random.Generator, size: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise between two frequencies, given as fractions of the sample rate."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size)
    return unit(np.fft.irfft(spectrum * ((frequency >= low) & (frequency <= high)), n=size))


def hum(rng: np.random.Generator, size: int, rate: int, pitch_hz: float) -> np.ndarray:
    """A mains hum: twelve harmonics of falling level over a little pink noise."""
    time = np.arange(size) / rate
    phases = rng.uniform(0, 2 * np.pi, 12)
    levels = rng.uniform(0.3, 1.0, 12) / np.arange(1, 13)
    tones = np.zeros(size)
    for k in range(12):
        tones += levels[k] * np.sin(2 * np.pi * pitch_hz * (k + 1) * time + phases[k])
    return unit(unit(tones) + 0.1 * coloured(rng, size, 1.0))


def modulated(
    rng: np.random.Generator, size: int, rate: int, cycles_hz: float, slope: float
) -> np.ndarray:
    """Coloured noise that swells and fades at irregular intervals around ``1 / cycles_hz`` s, by up
    to 20 dB.
    """
    count = max(2, int(size / rate * cycles_hz * 2) + 2)
    swell_db = np.interp(
        np.linspace(0, count - 1, size), np.arange(count), rng.uniform(-20, 0, count)
    )
    return unit(coloured(rng, size, slope) * 10 ** (swell_db / 20))


def clicks(rng: np.random.Generator, size: int, rate: int, per_s: float) -> np.ndarray:
    """Short damped knocks of random pitch and level at random times, over quiet pink noise."""
    out = 0.02 * coloured(rng, size, 1.0)
    length = int(0.03 * rate)
    time = np.arange(length) / rate
    for start in rng.integers(0, size - length, max(1, int(per_s * size / rate))):
        tone = np.sin(2 * np.pi * rng.uniform(300, 4000) * time) + 0.5 * rng.standard_normal(length)
        out[start : start + length] += (
            rng.uniform(0.2, 1.0) * tone * np.exp(-time / rng.uniform(0.002, 0.01))
        )
    return unit(out)


def babble(rng: np.random.Generator, size: int, voices: list[np.ndarray]) -> np.ndarray:
    """Voices talking at once: each ``(s,)`` repeated from a random place on, all equally loud."""
    mixed = np.zeros(size)
    for voice in voices:
        mixed += np.resize(np.roll(unit(voice), -int(rng.integers(voice.size))), size)
    return unit(mixed)


def unit(wave: np.ndarray) -> np.ndarray:
    """Scaled to RMS 1, float32."""
    return (wave / np.sqrt(np.mean(np.square(wave, dtype=np.float64)))).astype(np.float32)
