"""Audio files opened and checked: what a header promises is held against what is there, before
anything is allocated for it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mfdistill.errors import UserError
from mfdistill.reading import reason

# samples; the length in an MP3 header counts whole frames and the encoder's delay
_MP3_SLACK = 2304
_PIECE = 2**22  # values that are made room for at a time: a header may promise any number
# Hz: what a header may say
_RATES = 1000, 1_000_000
# samples per byte of the file that the densest coding reaches (MP3: 8 kbit/s at 24 kHz; others:
# digital silence)
_DENSEST = {"MP3": 48, "FLAC": 8192, "OGG": 8192}
_MOST_BYTES, _MOST_RATIO = 2**31, 256  # decoded: more than both is no recording of speech


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
    with handle, opened(handle, str(path)) as file:
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


@contextmanager
def opened(handle: io.IOBase, name: str) -> Iterator[AudioFile]:
    """``open_audio`` of a file or buffer that is open already; ``name`` is for messages."""
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
