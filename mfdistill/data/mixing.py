"""One training or evaluation sample from decoded recordings: crop, degradation, level. Numpy;
randomness only from the given generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mfdistill.audio.degrade import fit_length, limit_peak
from mfdistill.data.config import DataConfig

Degrade = Callable[[np.random.Generator, np.ndarray], np.ndarray]

_TRIES = 4
_QUIET = 0.1  # a crop with less than this part of its recording's mean power is drawn again


def generator(seed: int, index: int) -> np.random.Generator:
    """Random numbers of sample ``index``: a function of both numbers alone."""
    return np.random.default_rng([seed, index])


def training_sample(
    rng: np.random.Generator,
    clean: np.ndarray,
    noisy: np.ndarray | None,
    degrade: Degrade | None,
    crop: int,
    config: DataConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """``(clean, degraded)``, float32 ``(crop,)`` each, from a recording ``clean (s,)`` and its
    ``noisy`` twin or what ``degrade`` makes.

    Without either, degraded equals clean. Both get one random gain, less where one of them would
    clip.
    """
    start = crop_start(rng, clean, crop)
    target = cut(clean, start, crop)
    degraded = target
    if noisy is not None:
        degraded = cut(noisy, start, crop)
    elif degrade is not None:
        degraded = degrade(rng, target)
    gain = np.float32(10 ** (float(rng.uniform(*config.gain_db)) / 20))
    return limit_peak(target * gain, degraded * gain)


def crop_start(rng: np.random.Generator, wave: np.ndarray, crop: int) -> int:
    """First sample of a crop that is not nearly silent; negative where ``wave`` is shorter than
    ``crop`` (zeros go around it).
    """
    if wave.size <= crop:
        return -int(rng.integers(crop - wave.size + 1))
    power = float(np.dot(wave, wave)) / wave.size
    start = 0
    for _ in range(_TRIES):
        start = int(rng.integers(wave.size - crop + 1))
        part = wave[start : start + crop]
        if float(np.dot(part, part)) / crop >= _QUIET * power:
            break
    return start


def cut(wave: np.ndarray, start: int, size: int) -> np.ndarray:
    """``size`` samples of ``wave`` from ``start`` on, with zeros before its beginning and after its
    end.
    """
    if start >= 0 and start + size <= wave.size:
        return wave[start : start + size]
    out = np.zeros(size, dtype=wave.dtype)
    part = wave[max(start, 0) : max(start + size, 0)]
    at = max(-start, 0)
    out[at : at + part.size] = part
    return out


def noise_segment(rng: np.random.Generator, noise: np.ndarray, size: int) -> np.ndarray:
    """``size`` samples of ``noise`` from a random place that is not nearly silent; a shorter one is
    repeated.
    """
    if noise.size <= size:
        return fit_length(noise, size, rng)
    return cut(noise, crop_start(rng, noise, size), size)
