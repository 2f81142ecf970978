"""Reverberation: measured or simulated room impulse responses, and speech played through them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfdistill.audio.degrade import rms
from mfdistill.errors import UserError
from mfdistill.extras import remedy

LONGEST_S = 2.0  # of a response; EARS-Reverb (arXiv 2406.06185) leaves out rooms that ring longer


def trim_response(response: np.ndarray, sample_rate: int) -> np.ndarray:
    """A response ``(s,)`` cut at its largest absolute value, which becomes 1: the direct path comes
    first, so that nothing is delayed.

    Raises:
        ValueError: empty, silent or not finite.
    """
    if response.size == 0 or not np.isfinite(response).all() or not np.abs(response).max() > 0:
        raise ValueError("an impulse response must be finite and not silent")
    direct = int(np.abs(response).argmax())
    return (response[direct : direct + round(LONGEST_S * sample_rate)] / response[direct]).astype(
        np.float32
    )


def simulate_response(
    rng: np.random.Generator, sample_rate: int, rt60_s: tuple[float, float]
) -> np.ndarray:
    """The trimmed response of a random shoebox room by the image-source method (pyroomacoustics;
    arXiv 1710.04196).

    Sides of 3 to 9 m and 2.4 to 4 m height, source and microphone anywhere at least 0.5 m from the
    walls and from each other; the walls absorb what Sabine's formula wants for a reverberation time
    from ``rt60_s``.

    Raises:
        UserError: pyroomacoustics is not installed.
    """
    try:
        import pyroomacoustics  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        hint = (
            f"{remedy('pyroomacoustics')}, or name a folder of measured responses with --data.rirs"
        )
        raise UserError(
            f"dereverb: rooms are simulated with pyroomacoustics, which is missing; {hint}"
        ) from error
    room = np.array([rng.uniform(3, 9), rng.uniform(3, 9), rng.uniform(2.4, 4)])
    rt60 = float(rng.uniform(*rt60_s))
    # a large room cannot be as dry as the shortest time: total absorption is the limit
    volume, surface = room.prod(), 2 * (room[0] * room[1] + room[1] * room[2] + room[0] * room[2])
    rt60 = max(rt60, 1.05 * 0.161 * volume / surface)
    absorption, order = pyroomacoustics.inverse_sabine(rt60, list(room))
    source = rng.uniform(0.5, room - 0.5)
    microphone = rng.uniform(0.5, room - 0.5)
    for _ in range(20):
        if np.linalg.norm(source - microphone) >= 0.5:
            break
        microphone = rng.uniform(0.5, room - 0.5)
    box = pyroomacoustics.ShoeBox(
        room,
        fs=sample_rate,
        materials=pyroomacoustics.Material(absorption),
        max_order=min(order, _ORDER),
    )
    box.add_source(source)
    box.add_microphone(microphone)
    box.compute_rir()
    found: Any = box.rir
    return trim_response(np.asarray(found[0][0]), sample_rate)


_ORDER = 60  # reflections; the images grow with its third power


def reverberate(clean: np.ndarray, response: np.ndarray) -> np.ndarray:
    """``clean (s,)`` through a trimmed response, as long and as loud as before."""
    size = 1 << int(clean.size + response.size - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(clean, size) * np.fft.rfft(response, size), size)[: clean.size]
    level = rms(wet)
    return (wet * (rms(clean) / level if level > 0 else 1.0)).astype(np.float32)
