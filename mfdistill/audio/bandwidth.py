"""Band limitation: speech resampled down and up again, by one of several resamplers, so that no
network learns one filter's slope.
"""

from __future__ import annotations

import numpy as np

from mfdistill.errors import UserError
from mfdistill.extras import needed

# Stream.FM's mixture (arXiv 2512.19442)
RESAMPLERS = {
    "soxr_hq": 0.25, "soxr_mq": 0.1, "soxr_lq": 0.1, "kaiser_fast": 0.1, "kaiser_best": 0.25, "fourier": 0.1, "polyphase": 0.1,
}  # fmt: skip
# torchaudio's and resampy's parameters of these names
_KAISER = {
    "kaiser_fast": {"lowpass_filter_width": 16, "rolloff": 0.85, "beta": 8.555504641634386},
    "kaiser_best": {
        "lowpass_filter_width": 64,
        "rolloff": 0.9475937167399596,
        "beta": 14.769656459379492,
    },
}


def band_limited(wave: np.ndarray, sample_rate: int, low_rate: int, resampler: str) -> np.ndarray:
    """``wave (s,)`` down to ``low_rate`` and back to ``sample_rate``, float32 ``(s,)``; unchanged
    where both rates are the same.

    Raises:
        UserError: no such resampler, or a rate that is not lower.
    """
    if resampler not in RESAMPLERS:
        raise UserError(
            f"resampler {resampler!r}: unknown; this version has: {', '.join(RESAMPLERS)}"
        )
    if not 0 < low_rate <= sample_rate:
        raise UserError(
            f"--data.cutoff: {low_rate / 2:g} Hz lies outside 0 to {sample_rate / 2:g} Hz"
        )
    if low_rate == sample_rate:
        return wave
    there = _resample(wave, sample_rate, low_rate, resampler)
    back = _resample(there, low_rate, sample_rate, resampler)
    return np.pad(back[: wave.size], (0, max(0, wave.size - back.size))).astype(
        np.float32, copy=False
    )


def _resample(wave: np.ndarray, before: int, after: int, resampler: str) -> np.ndarray:
    if resampler.startswith("soxr_"):
        import soxr

        return soxr.resample(wave, before, after, quality=resampler.removeprefix("soxr_").upper())
    if resampler in _KAISER:
        import torch

        from mfdistill.audio.resample import resample

        options = {"resampling_method": "sinc_interp_kaiser", **_KAISER[resampler]}
        return resample(torch.from_numpy(wave), before, after, **options).numpy()
    signal = needed("scipy.signal", f"resampler {resampler}")
    if resampler == "fourier":
        return np.asarray(signal.resample(wave, max(1, round(wave.size * after / before))))
    divisor = int(np.gcd(before, after))
    return signal.resample_poly(wave, after // divisor, before // divisor)


def random_band_limit(
    rng: np.random.Generator, wave: np.ndarray, sample_rate: int, cutoffs: tuple[float, ...]
) -> np.ndarray:
    """Limited to one of ``cutoffs`` (fractions of the Nyquist frequency, all alike) by one of
    ``RESAMPLERS`` (by their probabilities).
    """
    cutoff = cutoffs[int(rng.integers(len(cutoffs)))]
    names = list(RESAMPLERS)
    resampler = names[int(rng.choice(len(names), p=list(RESAMPLERS.values())))]
    return band_limited(wave, sample_rate, round(cutoff * sample_rate), resampler)
