"""Speaker embeddings (Resemblyzer, GE2E): unit vectors (256,) whose cosine says how alike two
voices are. Its weights ship in its wheel.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfdistill.extras import needed

SPEAKER_DIM = 256
MODEL_RATE = 16000
MIN_S = 0.1

Wave = NDArray[np.floating]


class NoVoice(ValueError):
    """Nothing in a recording that a voice activity detector takes for speech."""


def speaker_embedding(wave: Wave, sample_rate: int) -> Wave:
    """Unit-length embedding (256,) of a waveform (s,), after the package's own level and silence
    preprocessing.

    Raises:
        NoVoice: silent, shorter than 0.1 s, or no voice detected. UserError: Resemblyzer is not
            installed.
    """
    return _encoder().embed_utterance(_speech(wave, sample_rate))


def partial_embeddings(wave: Wave, sample_rate: int, cache: Path | None = None) -> Wave:
    """Embeddings (p, 256) of the overlapping windows of 1.6 s that ``speaker_embedding`` averages
    (errors as there).

    Args:
        cache: folder in which results are kept by content (see ``cache_folder``); None computes
            anew.
    """
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    file = (
        None
        if cache is None
        else cache
        / f"{hashlib.sha256(wave.tobytes() + str(sample_rate).encode()).hexdigest()[:32]}.npy"
    )
    if file is not None and file.is_file():
        return np.load(file, allow_pickle=False)
    _, parts, _ = _encoder().embed_utterance(_speech(wave, sample_rate), return_partials=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as out:
            np.save(out, parts)
        part.replace(file)
    return parts


def joined(parts: Wave) -> Wave:
    """The embedding of a stretch of speech from those of its windows (p, 256): their mean at unit
    length.
    """
    mean = parts.mean(0)
    return mean / np.linalg.norm(mean)


def cache_folder() -> Path:
    """Where speaker embeddings are kept: ``$XDG_CACHE_HOME/mfdistill/speakers``."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mfdistill" / "speakers"
    )


def _speech(wave: Wave, sample_rate: int) -> Wave:
    wave = np.asarray(wave, dtype=np.float32)
    if sample_rate != MODEL_RATE and len(wave):
        import soxr

        wave = np.asarray(soxr.resample(wave, sample_rate, MODEL_RATE), dtype=np.float32)
    if len(wave) < MIN_S * MODEL_RATE or not wave.any():
        raise NoVoice("silent or shorter than 0.1 s")
    peak = float(np.max(np.abs(wave)))
    speech = _package().preprocess_wav(wave / np.float32(peak * (1 + 1e-6)) if peak > 1 else wave)
    if len(speech) == 0:
        raise NoVoice("no voice detected")
    return np.asarray(speech, dtype=np.float32)


@functools.cache
def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy and setuptools deprecations inside the package
        return needed("resemblyzer", "speaker embedding")


@functools.cache
def _encoder() -> Any:
    import torch

    # building it draws initial weights: the caller's random state must not notice
    with torch.random.fork_rng(devices=[]):
        return _package().VoiceEncoder(device="cpu", verbose=False).eval()
