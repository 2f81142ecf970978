"""Audio files in and out: any format of libsndfile, any rate, clear errors.

``files.py`` beside this opens and checks them, ``writing.py`` writes them, ``blocks.py`` reads and
writes hour-long ones in pieces.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np

from mfdistill.audio.files import (
    AudioFile,
    AudioInfo,
    info_of,
    least_length,
    open_audio,
    opened,
    read_frames,
)
from mfdistill.audio.writing import Level, Written, write_audio
from mfdistill.errors import UserError

__all__ = [
    "AudioInfo",
    "Level",
    "Written",
    "audio_info",
    "decode_audio",
    "decoded_info",
    "is_silent",
    "read_audio",
    "resample",
    "resampled_length",
    "write_audio",
]
SILENT_PEAK = 1e-4  # -80 dBFS: below the dither of a 16-bit recording in use


def audio_info(path: str | Path) -> AudioInfo:
    """Header of an audio file.

    Raises:
        UserError: missing, a folder, empty, not audio, damaged, or shorter than its header says.
    """
    with open_audio(path) as file:
        return info_of(file, str(path))


def read_audio(
    path: str | Path,
    sample_rate: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    silent: Literal["allow", "error"] = "allow",
) -> np.ndarray:
    """Mono float32 samples ``(s,)`` of a file, channels averaged, resampled to ``sample_rate``
    (None: the file's own).

    ``start_s`` and ``duration_s`` read a part; the file may end earlier than the part.

    Raises:
        UserError: as ``audio_info``; fewer than two samples; NaN or infinity inside; ``start_s``
            past the end; with ``silent="error"`` also where nothing rises above -80 dBFS.
    """
    with open_audio(path) as file:
        return _mono(file, str(path), sample_rate, start_s, duration_s, silent)


def decode_audio(
    data: bytes,
    name: str,
    sample_rate: int | None = None,
    silent: Literal["allow", "error"] = "allow",
) -> np.ndarray:
    """``read_audio`` of a file held in memory, as ``datasets`` gives it undecoded; ``name`` is for
    messages.
    """
    if not data:
        raise UserError(f"{name}: empty (0 bytes); fetch it again or remove it")
    with opened(io.BytesIO(data), name) as file:
        return _mono(file, name, sample_rate, 0.0, None, silent)


def decoded_info(data: bytes, name: str) -> AudioInfo:
    """``audio_info`` of a file held in memory."""
    if not data:
        raise UserError(f"{name}: empty (0 bytes); fetch it again or remove it")
    with opened(io.BytesIO(data), name) as file:
        return info_of(file, name)


def is_silent(wave: np.ndarray) -> bool:
    """True where no sample rises above -80 dBFS."""
    return wave.size == 0 or float(np.abs(wave).max()) < SILENT_PEAK


def resampled_length(length: int, rate_from: int, rate_to: int) -> int:
    """``ceil(length rate_to / rate_from)``."""
    return -(-length * rate_to // rate_from)


def resample(wave: np.ndarray, rate_from: int, rate_to: int) -> np.ndarray:
    """``(s,)`` at another rate, float32, ``resampled_length`` samples (soxr, HQ)."""
    if rate_from <= 0 or rate_to <= 0:
        raise UserError(f"sample rate {rate_from} -> {rate_to}: both must be positive")
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if rate_from == rate_to:
        return wave
    import soxr

    length = resampled_length(len(wave), rate_from, rate_to)
    out = soxr.resample(wave, rate_from, rate_to, quality="HQ")[:length]
    return np.pad(out, (0, length - len(out))).astype(np.float32, copy=False)


def _mono(
    file: AudioFile,
    name: str,
    sample_rate: int | None,
    start_s: float,
    duration_s: float | None,
    silent: str,
) -> np.ndarray:
    least_length(file, name)
    first = round(start_s * file.samplerate) if math.isfinite(start_s) else -1
    if not 0 <= first < file.frames:
        raise UserError(
            f"{name}: {file.frames / file.samplerate:.3f} s long, nothing at {start_s:g} s; start earlier"
        )
    file.skip(first)
    count = file.frames if duration_s is None else max(1, round(duration_s * file.samplerate))
    wave = read_frames(file, name, count).mean(axis=1, dtype=np.float32)
    if silent == "error" and is_silent(wave):
        raise UserError(
            f"{name}: silent (nothing above -80 dBFS); remove it or give another recording"
        )
    return resample(wave, file.samplerate, sample_rate or file.samplerate)
