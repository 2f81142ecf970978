"""Decoded recordings of one audio column, kept in memory when they are few enough."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfdistill.audio.io import audio_info, decode_audio, decoded_info, read_audio
from mfdistill.data.bad_files import BadFiles
from mfdistill.data.rows import Table
from mfdistill.errors import UserError
from mfdistill.plain import Plain

CACHE_BYTES = 2 * 2**30  # per column and process: nine hours of float32 at 16 kHz


class Waves:
    """``waves[i]`` is recording i as float32 ``(s,)`` at ``sample_rate``; do not change it in
    place, it may be cached.

    Opening reads every header, so that damaged files show at the start of a run and not in its
    middle.
    """

    def __init__(
        self, table: Table, column: str, sample_rate: int, bad: BadFiles | None = None
    ) -> None:
        self.names: list[str] = [str(name) for name in table["name"]]
        self.sample_rate = sample_rate
        self._audio = table.select_columns([column])
        self._column = column
        headers = [self._header(i, bad) for i in range(len(self.names))]
        self.frames = np.array([frames for frames, _ in headers], dtype=np.int64)
        self.rates = np.array([rate for _, rate in headers], dtype=np.int64)
        # samples at sample_rate, up to rounding
        self.lengths = np.maximum(self.frames * sample_rate // self.rates, 1)
        self._cache: dict[int, np.ndarray] | None = (
            {} if int(self.lengths.sum()) * 4 <= CACHE_BYTES else None
        )

    def _header(self, i: int, bad: BadFiles | None) -> tuple[int, int]:
        try:
            return header(self._cell(i), self.label(i))
        except UserError as error:
            if bad is None:
                raise
            bad.note(i, error)
            return self.sample_rate, self.sample_rate  # a second, which nobody reads

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> np.ndarray:
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        wave = decode(self._cell(i), self.label(i), self.sample_rate)
        if self._cache is not None:
            self._cache[i] = wave
        return wave

    def label(self, i: int) -> str:
        """What to call recording i in an error."""
        return f"{self._column} of '{self.names[i]}'"

    @property
    def seconds(self) -> float:
        """Total duration."""
        return float((self.frames / self.rates).sum())

    def _cell(self, i: int) -> Any:
        return self._audio[i][self._column]


def check_pairs(clean: Waves, noisy: Waves, bad: BadFiles | None = None) -> None:
    """Raise ``UserError`` unless every noisy twin has its clean recording's sample rate and length;
    with ``bad``, others are noted there.
    """
    for i in range(len(clean)):
        if clean.rates[i] != noisy.rates[i]:
            problem = f"{noisy.rates[i]} Hz, but clean has {clean.rates[i]} Hz"
        elif clean.frames[i] != noisy.frames[i]:
            problem = f"{noisy.frames[i]} samples, but clean has {clean.frames[i]}"
        else:
            continue
        error = UserError(
            f"{noisy.label(i)}: {problem}; pairs must be aligned sample by sample: replace or remove this one"
        )
        if bad is None:
            raise error
        if i not in bad.found:
            bad.note(i, error)


def decode(cell: Plain, label: str, sample_rate: int) -> np.ndarray:
    """Undecoded ``{"bytes", "path"}`` to float32 ``(s,)`` at ``sample_rate``.

    Raises:
        UserError: nothing there or not readable; ``label`` names a recording that has no path of
            its own.
    """
    if (data := _bytes(cell, label)) is not None:
        return decode_audio(data, label, sample_rate)
    return read_audio(cell["path"], sample_rate)


def header(cell: Plain, label: str) -> tuple[int, int]:
    """``(frames, sample rate)`` as its header says (errors as ``decode``)."""
    if (data := _bytes(cell, label)) is None:
        info = audio_info(cell["path"])
        label, frames, rate = cell["path"], info.frames, info.sample_rate
    else:
        info = decoded_info(data, label)
        frames, rate = info.frames, info.sample_rate
    if frames < 2:
        raise UserError(f"{label}: holds {frames} sample(s); replace or remove it")
    return frames, rate


def _bytes(cell: Plain | None, label: str) -> bytes | None:
    """The file itself, or None where there is only its path."""
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        raise UserError(f"{label}: holds neither audio bytes nor a path; remove the row")
    return cell.get("bytes")
