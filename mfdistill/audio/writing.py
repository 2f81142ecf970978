"""Audio files out: any format of libsndfile, whole or not at all."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from mfdistill.audio.files import AudioInfo
from mfdistill.errors import UserError
from mfdistill.parts import part_of

Level = Literal["keep", "limit"]
_ALIASES = {"AIF": "AIFF", "OPUS": "OGG", "OGA": "OGG", "WAVE": "WAV", "SND": "AU"}


@dataclass(frozen=True)
class Written:
    """How loud a written file is.

    Attributes:
        peak: the highest absolute sample before it was written; full scale is 1.
        clipped: samples that an integer format cut off at full scale.
        gain: what the file was multiplied by ("limit").
    """

    peak: float
    clipped: int
    gain: float

    def told(self) -> str | None:
        """What a user should know: nothing, where all fits."""
        above = 20 * math.log10(max(self.peak, 1.0))
        if self.clipped:
            return (
                f"clipped at full scale: {self.clipped} samples, up to {above:.1f} dB above it; "
                "--level limit turns the file down instead"
            )
        return None if self.gain == 1.0 else f"turned down by {above:.1f} dB, to full scale"


def write_audio(
    path: str | Path,
    wave: np.ndarray,
    sample_rate: int,
    subtype: str | None = None,
    like: AudioInfo | None = None,
    level: Level = "keep",
) -> Written:
    """Write ``(s,)`` or ``(s, channels)``; the format follows the name's ending, the sample format
    ``subtype`` or that of ``like``.

    Integer formats clip at +-1, unless ``level`` is "limit": the whole file is then turned down so
    far that its highest peak is 1. The file appears whole or not at all.

    Raises:
        UserError: unknown ending, a sample format that this file format lacks, NaN or infinity in
            ``wave``, a full disk.
    """
    samples = np.asarray(wave, dtype=np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    with BlockWriter(path, sample_rate, samples.shape[1], subtype, like, level) as file:
        file.write(samples)
    return file.written


class BlockWriter:
    """Write a file block by block; it takes its name when the ``with`` ends well and vanishes
    otherwise (arguments as ``write_audio``).
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int,
        channels: int,
        subtype: str | None = None,
        like: AudioInfo | None = None,
        level: Level = "keep",
    ) -> None:
        self.path, self._shape = Path(path), (sample_rate, channels)
        file_format, subtype = self._format = _format_for(self.path, subtype, like)
        self._kind = f"{file_format} {subtype}, {sample_rate} Hz, {channels} channels"
        self._part, self._whole = (part_of(self.path, end) for end in ("part", "whole"))
        self._clips = subtype not in ("FLOAT", "DOUBLE")
        self._limit = level == "limit" and self._clips
        self._peak, self._over = 0.0, 0
        with self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # how far it must be turned down is known at its end
            self._file = (
                soundfile.SoundFile(self._whole, "w", sample_rate, channels, "FLOAT", format="RF64")
                if self._limit
                else self._open(self._part)
            )

    def _open(self, path: Path) -> soundfile.SoundFile:
        file_format, subtype = self._format
        return soundfile.SoundFile(path, "w", *self._shape, subtype, format=file_format)

    @property
    def written(self) -> Written:
        """What was written so far."""
        gain = 1 / self._peak if self._limit and self._peak > 1 else 1.0
        return Written(self._peak, self._over if self._clips and not self._limit else 0, gain)

    def write(self, block: np.ndarray) -> None:
        """Append ``(frames, channels)``."""
        if not np.isfinite(block).all():
            raise UserError(
                f"{self.path}: not written, the samples made for it hold NaN or infinity; the model or its input is broken"
            )
        sizes = np.abs(block)
        self._peak = max(self._peak, float(sizes.max(initial=0.0)))
        self._over += int((sizes > 1).sum())
        with self._clear_errors():
            self._file.write(block)

    def _turn_down(self) -> None:
        gain = self.written.gain
        with soundfile.SoundFile(self._whole) as whole, self._open(self._part) as out:
            for block in whole.blocks(1 << 18, dtype="float32", always_2d=True):
                out.write(block * np.float32(gain))

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            with self._clear_errors():
                self._file.close()
                if error_type is None:
                    if self._limit:
                        self._turn_down()
                    os.replace(self._part, self.path)
        except UserError:
            if error_type is None:  # otherwise the first error is the one to tell
                raise
        finally:
            self._discard()

    def _discard(self) -> None:
        for file in (self._part, self._whole):
            with suppress(OSError):  # gone already, or its folder never was
                file.unlink()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        # soundfile asserts that everything was written
        except (OSError, AssertionError, soundfile.SoundFileError) as error:
            self._discard()
            said = str(error).replace(str(self._part), self.path.name).rstrip(".")
            raise UserError(
                f"{self.path}: cannot be written as {self._kind} ({said or 'the disk took less than was written'}); "
                f"{self._remedy(error, bool(said))}"
            ) from error

    def _remedy(self, error: BaseException, told: bool) -> str:
        """What helps: libsndfile does not tell a full disk from a coding that it cannot write."""
        folder = next(place for place in self.path.absolute().parents if place.exists())
        full = isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        )
        disk = shutil.disk_usage(folder)  # none of /proc and the like
        if full or not told or (disk.total > 0 and disk.free < 2**20):
            return "free some space or choose another folder"
        system = isinstance(error, OSError) or getattr(error, "code", 0) == 2  # SF_ERR_SYSTEM
        if system or not os.access(folder, os.W_OK):
            return "choose another folder or name"
        return "choose another ending, such as .wav or .flac"


def _format_for(path: Path, subtype: str | None, like: AudioInfo | None) -> tuple[str, str]:
    ending = path.suffix[1:].upper()
    file_format = _ALIASES.get(ending, ending)
    if file_format not in soundfile.available_formats() or file_format == "RAW":
        raise UserError(f"{path}: unknown ending {path.suffix!r}; use .wav, .flac, .ogg or .mp3")
    if like and file_format == "WAV" and like.format in ("WAV", "WAVEX", "RF64"):
        file_format = like.format
    if subtype and not soundfile.check_format(file_format, subtype):
        usable = ", ".join(soundfile.available_subtypes(file_format))
        raise UserError(
            f"{path}: {file_format} has no sample format {subtype!r}; use one of {usable}"
        )
    if not subtype and like and soundfile.check_format(file_format, like.subtype):
        subtype = like.subtype
    return file_format, subtype or (
        "OPUS" if ending == "OPUS" else soundfile.default_subtype(file_format) or "PCM_16"
    )
