"""Which frames of a recording say which symbol of its text: one Gaussian per symbol, learnt from
recordings and texts alone by Viterbi training, as monophone recognisers are started.

A symbol sequence begins and ends with symbol 0, the silence around a text, which may be absent;
every other symbol has one frame or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mfdistill.extras import needed

ROUNDS = 12
FLOOR = 0.05  # of a variance; features have variance 1
SEEN = 10.0  # frames with which a symbol is thought to have been seen everywhere
SHORTEST = 0.4  # of the mean, the duration of a symbol where only lengths are known
NEIGHBOURS = 3.0  # times that a pair of symbols is thought to have been seen without any effect
SILENCE = 3.0  # frames at both ends, to begin with
TOGETHER = 64  # recordings that are aligned at once


def align(
    features: Sequence[Tensor], symbols: Sequence[Tensor], gaussians: Tensor
) -> list[np.ndarray]:
    """Frames of each symbol ``(m,)``, 0 only for a silence at an end: the most likely monotonic
    alignment.

    Args:
        features: ``(n, d)`` of each recording. symbols: ``(m,)`` with ``m <= n + 2``. gaussians:
            ``(vocabulary, 2, d)``, means and variances.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(features)
    order = iter(sorted(range(len(features)), key=lambda i: len(features[i])))
    while part := list(islice(order, TOGETHER)):
        scores = [_likelihood(features[i], gaussians)[:, symbols[i]].numpy() for i in part]
        for i, counts in zip(part, _paths(scores), strict=True):
            found[i] = counts
    return found


def learn_gaussians(
    features: Sequence[Tensor], symbols: Sequence[Tensor], durations: np.ndarray
) -> tuple[Tensor, list[np.ndarray]]:
    """Gaussians ``(vocabulary, 2, d)``, and the alignment that they give.

    Args:
        durations: frames that each symbol of the vocabulary lasts, to begin with.
    """
    counts = [
        np.bincount(shares(durations[said.numpy()], len(own)), minlength=len(said))
        for own, said in zip(features, symbols, strict=True)
    ]
    gaussians = _fitted(features, symbols, counts, len(durations))
    for _ in range(ROUNDS):
        counts = align(features, symbols, gaussians)
        gaussians = _fitted(features, symbols, counts, len(durations))
    return gaussians, counts


def shares(durations: np.ndarray, n: int) -> np.ndarray:
    """Which of the symbols of these durations ``n`` frames belong to: ``(n,)``, each in
    proportion.
    """
    ends = durations.cumsum()
    return np.searchsorted(ends[:-1], np.arange(n) * ends[-1] / n, side="right")


def durations_by_lengths(
    symbols: Sequence[Tensor], lengths: np.ndarray, vocabulary: int
) -> np.ndarray:
    """How many frames each symbol lasts, ``(vocabulary,)``, by the recordings' ``lengths`` alone:
    bounded least squares, drawn to the mean where there are few of one.
    """
    optimize = needed("scipy.optimize", "aligning texts with recordings")
    inner = [said[1:-1].numpy() for said in symbols]
    counts = np.stack([np.bincount(said, minlength=vocabulary) for said in inner]).astype(float)
    lengths = np.maximum(lengths - 2 * SILENCE, counts.sum(1))
    mean = lengths.sum() / counts.sum()
    # an unknown duration lies around the mean, a mean away; a length is as far from the sum as it
    # now is from as many means
    weight = max(1.0, np.std(lengths - mean * counts.sum(1)) / mean)
    solved = optimize.lsq_linear(
        np.concatenate([counts, weight * np.eye(vocabulary)]),
        np.concatenate([lengths, np.full(vocabulary, weight * mean)]),
        bounds=(SHORTEST * mean, np.inf),
    )
    return np.concatenate([[SILENCE], solved.x[1:]])


def learn_durations(
    symbols: Sequence[Tensor], counts: Sequence[np.ndarray], vocabulary: int
) -> np.ndarray:
    """``(3, vocabulary)``: frames that a symbol lasts, and what the one before and the one behind
    it add, by ridge regression over alignments.
    """
    own = np.concatenate([said.numpy() for said in symbols])
    ends = np.cumsum([len(said) for said in symbols])
    before, behind = np.roll(own, 1), np.roll(own, -1)
    before[np.concatenate([[0], ends[:-1]])], behind[ends - 1] = 0, 0
    places = np.stack([own, before + vocabulary, behind + 2 * vocabulary])
    frames = np.concatenate(list(counts)).astype(float)
    mean = frames.mean()
    normal = np.diag(np.repeat([1.0, NEIGHBOURS, NEIGHBOURS], vocabulary))
    wanted = np.repeat([mean, 0.0, 0.0], vocabulary)
    for a in places:
        np.add.at(wanted, a, frames)
        for b in places:
            np.add.at(normal, (a, b), 1.0)
    return np.linalg.solve(normal, wanted).reshape(3, vocabulary)


def expected(durations: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """Frames that each of ``symbols (m,)`` usually lasts there, one at least."""
    own, before, behind = durations
    frames = own[symbols]
    frames[1:] += before[symbols[:-1]]
    frames[:-1] += behind[symbols[1:]]
    frames[0] += before[0]
    frames[-1] += behind[0]
    return np.maximum(frames, 1.0)


def _likelihood(features: Tensor, gaussians: Tensor) -> Tensor:
    """ln p ``(n, vocabulary)`` of features ``(n, d)``, but for a constant."""
    mean, variance = gaussians[:, 0], gaussians[:, 1]
    weight = 1 / variance
    constant = (mean.square() * weight + variance.log()).sum(1)
    return features @ (mean * weight).T - (features.square() @ weight.T + constant) / 2


def _fitted(
    features: Sequence[Tensor],
    symbols: Sequence[Tensor],
    counts: Sequence[np.ndarray],
    vocabulary: int,
) -> Tensor:
    """Mean and variance of each symbol's frames."""
    every = torch.cat(list(features))
    owner = torch.cat(
        [said.repeat_interleave(torch.from_numpy(own)) for said, own in zip(symbols, counts, strict=True)]
    )  # fmt: skip
    empty = every.new_zeros(vocabulary, every.shape[1])
    seen = torch.bincount(owner, minlength=vocabulary)[:, None] + SEEN
    # features have mean 0 and variance 1
    mean = empty.index_add(0, owner, every) / seen
    square = (empty.index_add(0, owner, every.square()) + SEEN) / seen
    return torch.stack([mean, (square - mean.square()).clamp(min=FLOOR)], 1)


def _paths(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames of each symbol on the best monotonic paths through ``(n, m)`` scores."""
    lengths = np.array([len(own) for own in scores])
    n, m = lengths.max(), max(own.shape[1] for own in scores)
    padded = np.full((len(scores), n, m), -np.inf, np.float32)
    for one, own in zip(padded, scores, strict=True):
        one[: len(own), : own.shape[1]] = own
    best = np.full((len(scores), m), -np.inf)
    best[:, :2] = padded[:, 0, :2]
    moved = np.zeros(padded.shape, bool)
    total = best.copy()
    for t in range(1, n):
        come = np.concatenate([np.full((len(best), 1), -np.inf), best[:, :-1]], 1)
        moved[:, t] = come > best
        best = np.maximum(best, come) + padded[:, t]
        total[lengths == t + 1] = best[lengths == t + 1]
    found = []
    for number, own in enumerate(scores):
        size = own.shape[1]
        at = size - 1 - int(total[number, size - 2] > total[number, size - 1])
        counts = np.zeros(size, int)
        for t in reversed(range(len(own))):
            counts[at] += 1
            at -= int(moved[number, t, at])
        found.append(counts)
    return found
