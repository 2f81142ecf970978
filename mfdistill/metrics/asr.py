"""Word error rates by speech recognisers and jiwer (``pip install jiwer pocketsphinx``)."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mfdistill.metrics.base import (
    Column,
    Metric,
    Undefined,
    Wave,
    load_package,
    peak_limited,
    resampled,
)

MODEL_RATE = 16000
_MODEL = "MFDISTILL_WHISPER"  # environment variable: size or file of Whisper's model
_TEXTS: dict[str, str] = {}


def wer(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Word error rate of what PocketSphinx hears in the estimate, against what it hears in the
    reference; 0 is best, above 1 is possible.

    Its US English model ships in its wheel. It mishears a fifth of clean read speech; its own
    mistakes on the reference count for nobody, so the number compares systems and is no absolute
    intelligibility.

    Raises:
        Undefined: nothing is recognised in the reference.
    """
    return {"wer": _error_rate("wer", sphinx, estimate, reference, sample_rate)}


def wer_whisper(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """As ``wer``, by Whisper's ``base`` model, or what the environment variable
    ``MFDISTILL_WHISPER`` names; its weights are fetched when first used.
    """
    return {"wer_whisper": _error_rate("wer_whisper", whisper, estimate, reference, sample_rate)}


def _error_rate(
    metric: str,
    recognise: Callable[[Wave], str],
    estimate: Wave,
    reference: Wave,
    sample_rate: int,
) -> float:
    def heard(wave: Wave) -> str:
        wave = np.ascontiguousarray(resampled(wave, sample_rate, MODEL_RATE))
        key = metric + hashlib.sha1(wave.tobytes()).hexdigest()
        if key not in _TEXTS:
            _TEXTS[key] = words(recognise(wave))
        return _TEXTS[key]

    wanted = heard(reference)
    if not wanted:
        raise Undefined("no words recognised in the reference")
    return float(load_package("jiwer", metric).wer(wanted, heard(estimate)))


def sphinx(wave: Wave) -> str:
    """What PocketSphinx hears in a waveform (s,) at 16 kHz."""
    decoder = _sphinx()
    decoder.reinit_feat()  # the level that it has grown used to
    decoder.start_utt()
    samples = (peak_limited(wave) * 32767).astype("<i2")
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else str(hypothesis.hypstr)


def whisper(wave: Wave) -> str:
    """What Whisper hears in a waveform (s,) at 16 kHz, without time stamps."""
    return str(_whisper().transcribe(wave, fp16=False, temperature=0.0)["text"])


def words(text: str) -> str:
    """Lower-case words of a text, without punctuation."""
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())


@functools.cache
def _sphinx() -> Any:
    # narrower than its default: half the time, and no more errors on clean read speech
    beam = {"maxhmmpf": 3000, "maxwpf": 10}
    package = load_package("pocketsphinx", "wer")
    return package.Decoder(samprate=MODEL_RATE, loglevel="FATAL", **beam)


@functools.cache
def _whisper() -> Any:
    model = os.environ.get(_MODEL, "base")
    return load_package("whisper", "wer_whisper").load_model(model, device="cpu")


WER = Metric(
    "wer",
    (Column("wer", "WER", -1, 3, resolution=0.005),),
    wer,
    ("jiwer", "pocketsphinx"),
    worker=True,
    piece_s=60.0,
)
WER_WHISPER = Metric(
    "wer_whisper",
    (Column("wer_whisper", "WER (Whisper)", -1, 3, resolution=0.005),),
    wer_whisper,
    ("jiwer", "whisper"),
)
