"""Word error rate by a speech recogniser (OpenAI's Whisper) and jiwer; both are extras (``pip
install mfdistill[asr]``).
"""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any

import numpy as np

from mfdistill.metrics.base import Undefined, Wave, load_package, resampled

MODEL_RATE = 16000
_MODEL = "MFDISTILL_WHISPER"  # environment variable: size or file of the recogniser
_TEXTS: dict[str, str] = {}


def wer(estimate: Wave, reference: Wave, sample_rate: int) -> dict[str, float]:
    """Word error rate of what is recognised in the estimate, against what is recognised in the
    reference; 0 is best, above 1 is possible.

    The recogniser is Whisper's ``base`` model, or what the environment variable
    ``MFDISTILL_WHISPER`` names. Its own mistakes on the reference count for nobody, so the number
    compares systems and is no absolute intelligibility.

    Raises:
        Undefined: nothing is recognised in the reference.
    """
    wanted, got = (_words(transcribe(wave, sample_rate)) for wave in (reference, estimate))
    if not wanted:
        raise Undefined("no words recognised in the reference")
    return {"wer": float(load_package("jiwer", "wer").wer(wanted, got))}


def transcribe(wave: Wave, sample_rate: int) -> str:
    """What Whisper hears, without time stamps; kept by content."""
    wave = np.ascontiguousarray(resampled(wave, sample_rate, MODEL_RATE))
    key = hashlib.sha1(wave.tobytes()).hexdigest()
    if key not in _TEXTS:
        _TEXTS[key] = str(_recogniser().transcribe(wave, fp16=False, temperature=0.0)["text"])
    return _TEXTS[key]


def _words(text: str) -> str:
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())


@functools.cache
def _recogniser() -> Any:
    return load_package("whisper", "wer").load_model(os.environ.get(_MODEL, "base"), device="cpu")
