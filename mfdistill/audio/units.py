"""Discrete speech units: residual k-means over cepstra whose mean and spread over the recording
were taken out, so that little of the voice is left.

A unit lasts ``frames`` Mel frames (two of 16 ms: 31.25 units per second) and has a code of every
level; the first says most, each other what those before it left. Stand-ins for the speech tokens of
CosyVoice, learnt from the corpus in seconds; they are not phonemes.
"""

from __future__ import annotations

import base64
import math

import numpy as np
import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.extras import needed

COEFFICIENTS = 20
DIM = 2 * COEFFICIENTS


def unit_features(log_mel: Tensor, frames: int) -> Tensor:
    """``(n // frames, DIM)`` features of one recording's log-Mel spectrogram ``(mels, n)``: cepstra
    0 to 19, averaged over ``frames`` frames (the last unit takes the rest), at mean 0 and deviation
    1 over the recording, and half their change to the next unit.
    """
    mels, n = log_mel.shape
    # (n, coefficients)
    cepstra = (cosines(mels).to(log_mel) @ log_mel).T
    owner = (torch.arange(n, device=log_mel.device) // frames).clamp(max=max(0, n // frames - 1))
    count = int(owner[-1]) + 1
    sums = cepstra.new_zeros(count, COEFFICIENTS).index_add_(0, owner, cepstra)
    units = sums / torch.bincount(owner, minlength=count)[:, None]
    units = (units - units.mean(0)) / units.std(0, unbiased=False).clamp(min=1e-3)
    change = torch.zeros_like(units)
    change[1:-1] = (units[2:] - units[:-2]) / 2
    return torch.cat([units, change], 1)


def cosines(mels: int) -> Tensor:
    """``(COEFFICIENTS, mels)``: Mel bands to cepstra 0, 1, ..."""
    band = (torch.arange(mels, dtype=torch.float64) + 0.5) * math.pi / mels
    return torch.cos(torch.arange(COEFFICIENTS, dtype=torch.float64)[:, None] * band)


def coarse_log_mel(centres: Tensor, log_mel: Tensor, given: Tensor) -> Tensor:
    """What units say about a log-Mel spectrogram in the voice of a prompt: their cepstra (the
    centres of their clusters) at the prompt's mean and deviation, as a smooth spectrogram ``(b,
    mels, n)``.

    Args:
        centres: ``(b, n, DIM)``, of each frame's unit. log_mel: ``(b, mels, n)``, read where
            ``given (b, 1, n)`` is 1.
    """
    basis = cosines(log_mel.shape[1]).to(log_mel)
    cepstra, count = basis @ log_mel, given.sum(-1, keepdim=True).clamp(min=1)
    mean = (cepstra * given).sum(-1, keepdim=True) / count
    deviation = ((cepstra - mean).square() * given).sum(-1, keepdim=True).div(count).sqrt()
    return smooth(
        centres[..., :COEFFICIENTS].transpose(1, 2).to(log_mel) * deviation + mean, log_mel.shape[1]
    )


def smooth(cepstra: Tensor, mels: int) -> Tensor:
    """``(b, mels, n)`` from its first cepstra ``(b, COEFFICIENTS, n)``: the inverse of the cosines,
    cut off.
    """
    halved = torch.cat([cepstra[:, :1] / 2, cepstra[:, 1:]], 1)
    return cosines(mels).to(cepstra).T @ halved * (2 / mels)


def learn_units(features: Tensor, count: int, levels: int = 1, seed: int = 0) -> Tensor:
    """Codebooks ``(levels, count, DIM)`` by scikit-learn's k-means over ``features (m, DIM)``;
    those after the first know nothing of changes, and are 0 there.

    Raises:
        UserError: fewer feature vectors than units, or scikit-learn is not installed.
    """
    if len(features) < count:
        raise UserError(
            f"--units {count}: the corpus gives only {len(features)} unit frames; ask for fewer units or add speech"
        )
    clusters = needed("sklearn.cluster", "speech units")
    books: list[Tensor] = []
    for level in range(levels):
        model = clusters.MiniBatchKMeans(
            count, batch_size=4096, n_init="auto", max_iter=60, random_state=seed + level
        )
        model.fit(features.double().numpy())
        books.append(torch.from_numpy(np.asarray(model.cluster_centers_)).float())
        _, features = _nearest(features, books[-1])
    return torch.stack(books)


def nearest_units(features: Tensor, codebook: Tensor) -> Tensor:
    """The nearest codes of each of ``features (m, DIM)``, level by level, as rows of
    ``codebook.flatten(0, 1)``: ``(m, levels)``.
    """
    found = []
    for level, book in enumerate(codebook.to(features.device)):
        code, features = _nearest(features, book)
        found.append(code + level * len(book))
    return torch.stack(found, 1)


def _nearest(features: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Codes ``(m,)``, and what they leave of the features without their change."""
    code = torch.cdist(features.float(), book).argmin(1)
    left = features.float() - book[code]
    return code, torch.cat([left[:, :COEFFICIENTS], torch.zeros_like(left[:, COEFFICIENTS:])], 1)


def unit_centres(units: Tensor, codebook: Tensor) -> Tensor:
    """Features ``(..., DIM)`` that units ``(..., levels)`` stand for."""
    return codebook.to(units.device).flatten(0, 1)[units].sum(-2)


def spread_units(units: Tensor, frames: int, n: int) -> Tensor:
    """Units ``(m, ...)`` at ``n`` Mel frames, each held for ``frames``, the last to the end."""
    return units[(torch.arange(n, device=units.device) // frames).clamp(max=len(units) - 1)]


def pack_codebook(codebook: Tensor) -> str:
    """Codebooks as text (base64 of float32 little-endian), for ``config.json``."""
    return base64.b64encode(codebook.numpy().astype("<f4").tobytes()).decode("ascii")


def unpack_codebook(text: str, levels: int, name: str = "codebook") -> Tensor:
    """Inverse of ``pack_codebook``: ``(levels, count, DIM)``; ``name`` is its key in
    ``config.json``.

    Raises:
        UserError: damaged.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        return torch.from_numpy(values.reshape(levels, -1, DIM).copy())
    except ValueError as error:
        raise UserError(
            f"task.{name}: damaged ({error}); restore config.json or train again"
        ) from error
