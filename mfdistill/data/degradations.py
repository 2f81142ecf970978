"""How degraded speech is made from clean speech on the fly: a function of the clean samples and of
one random generator, nothing else.

What a corpus has recorded goes first: where it holds degraded twins, nothing is made (see
``sources``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from mfdistill.audio.bandwidth import random_band_limit
from mfdistill.audio.codecs import coded
from mfdistill.audio.degrade import mix_at_snr
from mfdistill.audio.reverb import reverberate, simulate_response, trim_response
from mfdistill.data.config import DataConfig
from mfdistill.data.folders import noise_files
from mfdistill.data.mixing import noise_segment
from mfdistill.data.sources import open_noises
from mfdistill.data.waves import Waves
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.tasks.config import Degradation as Kind

# VoiceBank-DEMAND's test set (Valentini-Botinhao et al., 2016)
EVAL_SNRS_DB = (2.5, 7.5, 12.5, 17.5)
SIMULATED = 256  # rooms of a split
_ROOMS = {"train": 0, "valid": 1, "test": 2}


@dataclass(frozen=True)
class Degradation:
    """``train(rng, clean (s,)) -> degraded (s,)``; ``evaluate(rng, clean, i)`` for the i-th
    utterance of a set, with what is to be said of it (``snr_db``). Both float32, aligned with the
    clean samples.
    """

    train: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    evaluate: Callable[[np.random.Generator, np.ndarray, int], tuple[np.ndarray, Plain]]
    summary: str


def kind_of(degradation: Kind | bool) -> Kind:
    """A kind; True is 'noise' and False 'none'."""
    return degradation if isinstance(degradation, str) else "noise" if degradation else "none"


def made_anyway(config: DataConfig, kind: Kind) -> bool:
    """Whether the configuration names a way to make the degradation, so that a corpus's own
    degraded twins are not wanted.
    """
    return {
        "noise": config.noise,
        "reverb": config.rirs,
        "codec": config.codec,
        "bandwidth": config.cutoff,
    }.get(kind) is not None


def open_degradation(
    config: DataConfig, kind: Kind, split: str, sample_rate: int
) -> Degradation | None:
    """What a split's clean speech goes through; None where it goes through nothing.

    Raises:
        UserError: an unknown kind; noises or responses missing or damaged.
    """
    if kind == "none":
        return None
    if kind not in _MADE:
        raise UserError(f"degradation {kind!r}: unknown; known are none, {', '.join(_MADE)}")
    return _MADE[kind](config, split, sample_rate)


CUTOFFS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Of the Nyquist frequency: at 16 kHz, sample rates of 4, 6, ..., 16 kHz, as Stream.FM's."""


def _same(
    train: Callable[[np.random.Generator, np.ndarray], np.ndarray], summary: str
) -> Degradation:
    return Degradation(train, lambda rng, clean, i: (train(rng, clean), {}), summary)


def _noise(config: DataConfig, split: str, sample_rate: int) -> Degradation:
    noises = Waves(open_noises(config, split), "clean", sample_rate)

    def mix(rng: np.random.Generator, clean: np.ndarray, snr_db: Callable[[], float]) -> np.ndarray:
        noise = noise_segment(rng, noises[int(rng.integers(len(noises)))], clean.size)
        return mix_at_snr(clean, noise, snr_db())

    def evaluate(rng: np.random.Generator, clean: np.ndarray, i: int) -> tuple[np.ndarray, Plain]:
        snr_db = EVAL_SNRS_DB[i % len(EVAL_SNRS_DB)]
        return mix(rng, clean, lambda: snr_db), {"snr_db": snr_db}

    return Degradation(
        lambda rng, clean: mix(rng, clean, lambda: float(rng.uniform(*config.snr_db))),
        evaluate,
        f"{len(noises)} noises",
    )


def _reverb(config: DataConfig, split: str, sample_rate: int) -> Degradation:
    folder = None if config.rirs in (None, "simulated") else Path(str(config.rirs)).expanduser()
    if config.rirs is None and (beside := Path(config.source).expanduser() / "rir").is_dir():
        folder = beside
    response: Callable[[int], np.ndarray]
    if folder is None:
        low, high = config.rt60_s or (0.2, 0.8)
        count, summary = SIMULATED, f"{SIMULATED} simulated rooms of {low:g} to {high:g} s"
        response = partial(_simulated, _ROOMS[split], sample_rate=sample_rate, rt60_s=(low, high))
    else:
        files = noise_files(folder, split, "impulse responses", "rirs")
        count, summary = len(files), f"{len(files)} impulse responses"
        response = lru_cache(maxsize=1024)(lambda number: _measured(files[number], sample_rate))
    return _same(lambda rng, clean: reverberate(clean, response(int(rng.integers(count)))), summary)


@lru_cache(maxsize=4 * SIMULATED)
def _simulated(
    split: int, number: int, sample_rate: int, rt60_s: tuple[float, float]
) -> np.ndarray:
    """A room of its split: the same in every run and process."""
    return simulate_response(np.random.default_rng([60, split, number]), sample_rate, rt60_s)


def _measured(file: Path, sample_rate: int) -> np.ndarray:
    from mfdistill.audio.io import read_audio

    try:
        return trim_response(read_audio(file, sample_rate), sample_rate)
    except ValueError as error:
        raise UserError(f"{file}: {error}; remove it") from error


def _codec(config: DataConfig, split: str, sample_rate: int) -> Degradation:
    name, (low, high) = config.codec or "opus", config.codec_kbps or (6.0, 6.0)
    rates = f" at {low:g} to {high:g} kbit/s" if name == "opus" else ""
    return _same(
        lambda rng, clean: coded(clean, sample_rate, name, float(rng.uniform(low, high))),
        f"{name}{rates}",
    )


def _bandwidth(config: DataConfig, split: str, sample_rate: int) -> Degradation:
    cutoffs = config.cutoff or CUTOFFS
    limited = tuple(cutoff for cutoff in cutoffs if cutoff < 1) or cutoffs
    return Degradation(
        lambda rng, clean: random_band_limit(rng, clean, sample_rate, cutoffs),
        # whole bands tell nothing about the extension of others, so that they are left out of
        # evaluation
        lambda rng, clean, i: (random_band_limit(rng, clean, sample_rate, limited), {}),
        "cut off at "
        + ", ".join(f"{cutoff * sample_rate / 2000:g}" for cutoff in cutoffs)
        + " kHz",
    )


_MADE: dict[str, Callable[[DataConfig, str, int], Degradation]] = {
    "noise": _noise,
    "reverb": _reverb,
    "codec": _codec,
    "bandwidth": _bandwidth,
}
