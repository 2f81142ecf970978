"""Fingerprints of recordings: the same after another gain, coding or rate, and found again in a
cut. After Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002: signs of
differences of band energies along frequency and time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from mfdistill.audio.io import resample

RATE, WINDOW, HOP = 5000, 1024, 64
BANDS = 33  # from 300 to 2000 Hz, so that a frame has 32 bits
SHARE = 0.15  # of the shorter one's frames that agree in all bits
_MOST_PLACES = 64  # where a frame occurs; one that is everywhere tells nothing


def fingerprint(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """``(s,)`` to 32 bits a frame, uint32 ``(n,)``; a frame is 12.8 ms."""
    wave = resample(wave, sample_rate, RATE)
    if len(wave) < 2 * WINDOW:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    edges = np.geomspace(300, 2000, BANDS + 1) * WINDOW / RATE
    first = np.maximum(np.round(edges).astype(int)[:-1], 1)
    last = np.maximum(np.round(edges).astype(int)[1:], first + 1)
    bits = []
    for k in range(0, len(frames), 4096):  # bounded memory
        part = frames[k : k + 4097]
        power = np.abs(np.fft.rfft(part * np.hanning(WINDOW), axis=1)) ** 2
        sums = np.concatenate([np.zeros((len(part), 1)), power.cumsum(1)], 1)
        energy = sums[:, last] - sums[:, first]
        change = np.diff(np.diff(energy, axis=1), axis=0)
        bits.append(change > 0)
    packed = np.packbits(np.concatenate(bits), axis=1)
    return packed.copy().view(">u4")[:, 0].astype(np.uint32)


def alike(prints: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of names, sorted, of which one sounds like the other or like a part of it."""
    names = sorted(name for name, values in prints.items() if len(values))
    if len(names) < 2:
        return []
    owners = np.concatenate([np.full(len(prints[name]), i) for i, name in enumerate(names)])
    values = np.concatenate([prints[name] for name in names])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    together: Counter[tuple[int, int]] = Counter()
    for start, end in zip(starts, np.r_[starts[1:], len(values)], strict=True):
        if 2 <= end - start <= _MOST_PLACES and values[start]:
            group = Counter(owners[start:end].tolist())
            members = sorted(group)
            for place, i in enumerate(members):
                for j in members[place + 1 :]:
                    together[i, j] += min(group[i], group[j])
    return [
        (names[i], names[j])
        for (i, j), count in sorted(together.items())
        if count >= SHARE * min(len(prints[names[i]]), len(prints[names[j]]))
    ]
