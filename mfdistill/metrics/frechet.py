"""Fréchet distances between the embeddings of all estimates and of all references: what a set of
utterances sounds like, whoever says what in which of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfdistill.metrics.base import Column, Metric, Wave, load_package
from mfdistill.metrics.models import RESEMBLYZER, SPEECHMOS, embedding, judgeable

Pair = tuple[Wave, Wave]
"""Embeddings (n, d) of an estimate and of its reference."""
# the last layer of DNSMOS's network before it takes the maximum over time and frequency
LAYER, WINDOW, FRAME = "mos_estimator_logpow/conv2d_6/Relu:0", 144160, 1280
_FRAMES: dict[str, Wave] = {}  # of references
_KEPT = 1024


def frechet(a: Wave, b: Wave) -> float:
    """Squared Fréchet distance of the normal distributions fitted to ``a`` (n, d) and ``b`` (m, d),
    ``|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` (Dowson and Landau 1982; FID, Heusel
    et al. 2017); nan with fewer than two rows.

    Biased upwards by few rows: only numbers of the same utterances compare.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    shift = a.mean(0) - b.mean(0)
    # S = X'X; the trace of the root of S_a S_b is the sum of the singular values of X_a X_b', which
    # a triangular factor of each X shares: no root of a nearly singular product
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    x, y = (np.asarray(np.linalg.qr(z, mode="r")) for z in (x, y))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + (x**2).sum() + (y**2).sum() - 2 * root))


def speakers(estimate: Wave, reference: Wave, sample_rate: int) -> Pair:
    """Resemblyzer's embeddings, one per utterance (1, 256).

    Raises:
        Undefined: no voice in one of them.
    """
    return embedding(estimate, sample_rate)[None], embedding(reference, sample_rate)[None]


def frames(estimate: Wave, reference: Wave, sample_rate: int) -> Pair:
    """Features of DNSMOS's network every 80 ms (n, 64): its last layer, greatest over frequency.

    Raises:
        Undefined: silent or shorter than 0.1 s.
    """
    key = hashlib.sha1(np.ascontiguousarray(reference).tobytes()).hexdigest() + str(sample_rate)
    if key not in _FRAMES:
        if len(_FRAMES) >= _KEPT:
            _FRAMES.clear()
        _FRAMES[key] = dnsmos_frames(reference, sample_rate)
    return dnsmos_frames(estimate, sample_rate), _FRAMES[key]


def dnsmos_frames(wave: Wave, sample_rate: int) -> Wave:
    """Features (n, 64) of a waveform (s,) in windows of 9 s; a shorter rest is repeated to fill a
    window, and what the repetition adds is dropped.
    """
    wave = judgeable(wave, sample_rate)
    parts = []
    for start in range(0, len(wave), WINDOW):
        part = wave[start : start + WINDOW]
        if start and len(part) < FRAME:
            continue
        filled = np.tile(part, -(-WINDOW // len(part)))[:WINDOW]
        (maps,) = _network().run([LAYER], {"input_1": filled[None].astype(np.float32)})
        parts.append(maps[0].max(-1).T[: -(-len(part) // FRAME)])
    return np.concatenate(parts)


@functools.cache
def _network() -> Any:
    """DNSMOS's network with the layer as a further output. Two messages of one kind in a protocol
    buffer are merged, so that a graph with nothing but that output is simply added to the file.
    """
    package = load_package("speechmos", "fd_frames")
    file = Path(str(package.__file__)).parent / "dnsmos_models" / "sig_bak_ovr.onnx"

    def message(tag: int, content: bytes) -> bytes:
        return bytes([tag, len(content)]) + content  # of less than 128 bytes

    output = message(0x3A, message(0x62, message(0x0A, LAYER.encode())))
    return load_package("onnxruntime", "fd_frames").InferenceSession(file.read_bytes() + output)


def distance(column: str, pairs: Sequence[Pair]) -> dict[str, float]:
    """The column's value of many utterances' evidence."""
    a, b = zip(*pairs, strict=True)
    return {column: frechet(np.concatenate(a), np.concatenate(b))}


FD_SPEAKER = Metric(
    "fd_speaker",
    (Column("fd_speaker", "FD speakers", -1, 3),),
    speakers,
    RESEMBLYZER,
    over=functools.partial(distance, "fd_speaker"),
)
FD_FRAMES = Metric(
    "fd_frames",
    (Column("fd_frames", "FD frames", -1, 3),),
    frames,
    SPEECHMOS,
    over=functools.partial(distance, "fd_frames"),
)
