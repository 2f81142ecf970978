"""Audio files in and out: any format of libsndfile, any rate, clear errors; nothing half-written.

``blocks.py`` beside this reads and writes hour-long files in pieces.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from mfdistill.errors import UserError
from mfdistill.parts import part_of
from mfdistill.reading import reason

Level = Literal["keep", "limit"]
SILENT_PEAK = 1e-4  # -80 dBFS: below the dither of a 16-bit recording in use
# samples; the length in an MP3 header counts whole frames and the encoder's delay
_MP3_SLACK = 2304
_PIECE = 2**22  # values that are made room for at a time: a header may promise any number
# Hz: what a header may say
_RATES = 1000, 1_000_000
# samples per byte of the file that the densest coding reaches (MP3: 8 kbit/s at 24 kHz; others:
# digital silence)
_DENSEST = {"MP3": 48, "FLAC": 8192, "OGG": 8192}
_MOST_BYTES, _MOST_RATIO = 2**31, 256  # decoded: more than both is no recording of speech
_ALIASES = {"AIF": "AIFF", "OPUS": "OGG", "OGA": "OGG", "WAVE": "WAV", "SND": "AU"}


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; ``frames`` are samples per channel, ``format`` and ``subtype``
    libsndfile's names (WAV, PCM_16).
    """

    path: str
    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


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
    with _opened(io.BytesIO(data), name) as file:
        return _mono(file, name, sample_rate, 0.0, None, silent)


def decoded_info(data: bytes, name: str) -> AudioInfo:
    """``audio_info`` of a file held in memory."""
    if not data:
        raise UserError(f"{name}: empty (0 bytes); fetch it again or remove it")
    with _opened(io.BytesIO(data), name) as file:
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


# ---- shared with blocks.py


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioFile]:
    """An open, checked file; damage found while reading it becomes a ``UserError`` too (errors as
    ``audio_info``).
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not an audio file; name a file in it")
        if not path.exists():
            raise UserError(f"{path}: no such file; check the name")
        if not path.is_file():  # opening a pipe would wait for ever
            raise UserError(f"{path}: is neither a file nor a folder; name a file")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file (0 bytes); fetch it again or remove it")
        handle = path.open("rb")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); check its name and permissions"
        ) from error
    with handle, _opened(handle, str(path)) as file:
        yield file


class AudioFile(soundfile.SoundFile):
    """Counts its own position: some codings can neither seek nor tell (GSM 6.10, G.721, NMS ADPCM),
    DWVW says that it can, and an MP3 frame that was sought comes out silent where it needs bits of
    the frames before it. The binding seeks after every read of a file that can be sought.
    """

    at = 0

    def seekable(self) -> bool:
        sound = self.format != "MP3" and not self.subtype.startswith("DWVW")
        return sound and super().seekable()

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` frames, or what there is of them, float32 ``(frames, channels)``."""
        blocks = []
        while count > 0:
            size = min(count, max(1, _PIECE // self.channels))
            blocks.append(self.read(size, dtype="float32", always_2d=True))
            self.at += len(blocks[-1])
            count -= size
            if len(blocks[-1]) < size:
                break
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def skip(self, count: int) -> None:
        """Leave out the next ``count`` frames."""
        if count and self.seekable():
            self.at = self.seek(self.at + count)
            return
        while count > 0 and len(dropped := self.take(min(count, _PIECE))):
            count -= len(dropped)


def info_of(file: AudioFile, name: str) -> AudioInfo:
    """The header of an open file."""
    return AudioInfo(name, file.samplerate, file.channels, file.frames, file.format, file.subtype)


def read_frames(file: AudioFile, name: str, count: int) -> np.ndarray:
    """The next ``count`` frames (fewer at the end) as float32 ``(frames, channels)``.

    Raises:
        UserError: the file ends before its header says; NaN or infinity inside.
    """
    start = file.at
    expected = min(count, file.frames - start)
    block = file.take(expected)
    if len(block) < expected - (_MP3_SLACK if file.format == "MP3" else 0):
        raise UserError(_truncated(name, start + len(block), file.frames))
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        at_s = (start + int(bad[0])) / file.samplerate
        raise UserError(
            f"{name}: holds NaN or infinity ({bad.size} samples, the first at {at_s:.3f} s); export it again or remove it"
        )
    return block


def least_length(file: AudioFile, name: str) -> None:
    """Refuse files of fewer than two samples."""
    if file.frames < 2:
        what = "one sample long" if file.frames == 1 else "has a header but no samples (truncated?)"
        raise UserError(f"{name}: {what}; give a longer recording or remove it")


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
        if full or not told or shutil.disk_usage(folder).free < 2**20:
            return "free some space or choose another folder"
        system = isinstance(error, OSError) or getattr(error, "code", 0) == 2  # SF_ERR_SYSTEM
        if system or not os.access(folder, os.W_OK):
            return "choose another folder or name"
        return "choose another ending, such as .wav or .flac"


@contextmanager
def _opened(handle: io.IOBase, name: str) -> Iterator[AudioFile]:
    handle.seek(0)
    try:
        # a descriptor or buffer: the format is found from the content, whatever the name says
        file = AudioFile(
            handle if isinstance(handle, io.BytesIO) else handle.fileno(), closefd=False
        )
    except soundfile.SoundFileError as error:
        said = str(error).rsplit(": ", 1)[-1].rstrip(".")
        if "malformed" in said.lower() or "lost sync" in said or "WAV/W64" in str(error):
            raise UserError(
                f"{name}: damaged or truncated ({said}); fetch or export it again"
            ) from error
        raise UserError(
            f"{name}: not an audio file that can be read here; convert it to WAV, FLAC, OGG, MP3 or AIFF"
        ) from error
    # what libsndfile's binding makes of damaged headers
    except (RuntimeError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(f"{name}: damaged ({reason(error)}); fetch or export it again") from error
    with file:
        _check_sizes(file, _size(handle), name)
        _check_whole(file, handle, name)
        try:
            yield file
        except soundfile.SoundFileError as error:
            raise UserError(
                f"{name}: damaged or truncated after {file.at} samples ({reason(error)}); fetch or export it again"
            ) from error


def _size(handle: io.IOBase) -> int:
    if isinstance(handle, io.BytesIO):
        return handle.getbuffer().nbytes
    return os.fstat(handle.fileno()).st_size


def _check_sizes(file: AudioFile, size: int, name: str) -> None:
    """Hold what the header says against the file's ``size`` in bytes, before anything is allocated
    for it.
    """
    low, high = _RATES
    if not low <= file.samplerate <= high:
        raise UserError(
            f"{name}: its header says {file.samplerate} Hz, which is no recording's rate; export it again"
        )
    samples = file.frames * file.channels
    # the others code a sample in a bit at least
    if file.frames < 0 or samples > size * _DENSEST.get(file.format, 8):
        raise UserError(
            f"{name}: its header promises {file.frames} samples x {file.channels}, which {size} bytes cannot hold; export it again"
        )
    if 4 * samples > max(_MOST_BYTES, _MOST_RATIO * size):
        raise UserError(
            f"{name}: {file.frames} samples of {file.channels} channels in {size} bytes, hardly a recording; cut it into pieces"
        )


def _check_whole(file: AudioFile, handle: io.IOBase, name: str) -> None:
    """Compare what the header promises with what is there, where the format tells (FLAC and MP3
    tell when they are read).
    """
    claim = re.search(
        r"(?m)^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", file.extra_info
    )
    # writers into a pipe leave 0 or the largest number in the header, which means "until the end"
    if claim and int(claim[2]) < int(claim[1]) < 0x7FFFF000:
        raise UserError(
            f"{name}: truncated, {claim[2]} of {claim[1]} bytes are there; fetch or export it again"
        )
    claim = re.search(
        r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)",
        file.extra_info,
    )
    if claim and int(claim[1]) < int(claim[2]):
        raise UserError(_truncated(name, int(claim[1]), int(claim[2])))
    if file.format == "OGG" and not _last_page_whole(handle):
        raise UserError(f"{name}: truncated in its last page; fetch or export it again")


def _last_page_whole(handle: io.IOBase) -> bool:
    """An Ogg page is 27 bytes, a table of segment lengths, and the segments: at most 65307
    bytes.
    """
    if isinstance(handle, io.BytesIO):
        tail = bytes(handle.getbuffer()[-65536:])
    else:
        tail = os.pread(handle.fileno(), 65536, max(0, _size(handle) - 65536))
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[26] if len(page) > 26 else 256
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


def _truncated(name: str, there: int, promised: int) -> str:
    return f"{name}: truncated, {there} of {promised} samples are there; fetch or export it again"


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
