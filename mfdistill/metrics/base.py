"""What a metric is: a function of (estimate, reference, sample rate) and the columns that it gives,
with all that tables, figures and searches want to know of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfdistill.errors import UserError
from mfdistill.extras import missing, needed

Wave = NDArray[np.floating]

# framing and resampling shift the end by a frame or two; more than this is another recording
TOLERANCE_S = 0.05


class Undefined(ValueError):
    """The metric has no value on this utterance (PESQ found no speech, say); the scorer writes nan
    and keeps the reason.
    """


@dataclass(frozen=True)
class Column:
    """One number of a metric.

    ``direction`` is +1 where higher is better and -1 where lower is. ``digits`` are shown behind
    the point. ``resolution`` is a difference too small to care about, in the metric's unit; None:
    a search takes a share of the score. ``minor`` ones are left out of the terminal's table.
    """

    name: str
    label: str
    direction: int
    digits: int = 2
    unit: str = ""
    resolution: float | None = None
    minor: bool = False


@dataclass(frozen=True)
class Metric:
    """One metric: the whole of what the program knows about it.

    ``fn(estimate, reference, sample_rate)`` takes two finite waveforms (s,) of equal length and
    returns a value for each of ``columns`` by name (nan for one that has none); it raises
    `Undefined` where there is no value at all. The last column is the one that a search optimises.
    ``modules`` are what it imports when called.
    """

    name: str
    columns: tuple[Column, ...]
    fn: Callable[[Wave, Wave, int], Any]
    modules: tuple[str, ...] = ()
    worker: bool = False
    """Slow, or native code that may crash: runs in a process of its own under a time limit."""
    piece_s: float | None = None
    """Longer recordings are scored in equal pieces of at most so many seconds, and averaged."""
    voice: bool = False
    """Compares voices: with a prompt, where there is one, instead of the reference."""
    over: Callable[[Sequence[Any]], dict[str, float]] | None = None
    """Of a set of utterances: ``fn`` then gives one utterance's evidence, a pair of arrays or
    whatever this function makes the columns of.
    """

    @property
    def primary(self) -> str:
        return self.columns[-1].name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def load_package(module: str, metric: str) -> ModuleType:
    """Import ``module`` for ``metric``.

    Raises:
        UserError: it, or something that it imports, is not installed; the message has the ``pip
            install`` line.
    """
    return needed(module, f"metric {metric}")


def missing_package(metric: str, module: str) -> str:
    """The one-line message for a package that is not installed."""
    return missing(module, f"metric {metric}")


def resampled(wave: Wave, source_rate: int, target_rate: int) -> Wave:
    """``wave`` (s,) at ``target_rate`` Hz as float32; unchanged in value where the rates agree."""
    wave = np.asarray(wave, dtype=np.float32)
    if source_rate == target_rate:
        return wave
    import soxr

    return np.asarray(soxr.resample(wave, source_rate, target_rate), dtype=np.float32)


def aligned(
    estimate: Wave, reference: Wave, sample_rate: int, name: str = "utterance"
) -> tuple[Wave, Wave]:
    """Both waveforms as (s,) arrays trimmed to the shorter.

    Raises:
        UserError: not one-dimensional, empty, a sample rate below 1, or lengths that differ by more
            than ``TOLERANCE_S`` seconds.
    """
    estimate, reference = np.asarray(estimate), np.asarray(reference)
    if estimate.ndim != 1 or reference.ndim != 1:
        raise UserError(
            f"{name}: expected mono waveforms (samples,), got shapes {estimate.shape} and {reference.shape}"
        )
    if sample_rate < 1:
        raise UserError(f"{name}: sample rate {sample_rate} Hz; give a positive one")
    if abs(len(estimate) - len(reference)) > TOLERANCE_S * sample_rate:
        seconds = (len(estimate) / sample_rate, len(reference) / sample_rate)
        raise UserError(
            f"{name}: estimate lasts {seconds[0]:.3f} s and reference {seconds[1]:.3f} s, more than {TOLERANCE_S} s apart; "
            "pair each file with its own reference at the same sample rate"
        )
    length = min(len(estimate), len(reference))
    if length == 0:
        raise UserError(f"{name}: no samples to score")
    return estimate[:length], reference[:length]


def peak_limited(wave: Wave) -> Wave:
    """``wave`` scaled down to a peak of 1 where it is louder, unchanged otherwise."""
    peak = float(np.max(np.abs(wave)))
    return wave / np.float32(peak * (1 + 1e-6)) if peak > 1.0 else wave


@contextlib.contextmanager
def pinned_numpy() -> Iterator[None]:
    """numpy's global generator at a fixed state, and back where it was afterwards.

    pystoi dithers with it and PLCMOS draws its listeners: the same audio would score differently
    each time.
    """
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
