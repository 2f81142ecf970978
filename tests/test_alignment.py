"""Texts aligned with recordings: exact paths, and what is learnt from sequences that are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from mfdistill.audio.alignment import (
    align,
    durations_by_lengths,
    expected,
    learn_durations,
    learn_gaussians,
    shares,
)

VOCABULARY, DIM = 7, 5


def made(
    count: int, seed: int = 0, noise: float = 0.3
) -> tuple[list[Tensor], list[Tensor], list[np.ndarray], Tensor]:
    """Sequences between silences, their features, true durations and the Gaussians' means."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((VOCABULARY, DIM))
    features, symbols, counts = [], [], []
    for _ in range(count):
        said = np.concatenate([[0], rng.integers(1, VOCABULARY, 8), [0]])
        # two alike in a row cannot be told apart
        said[1:][said[1:] == said[:-1]] = 0
        said[1:-1][said[1:-1] == 0] = VOCABULARY - 1
        lasts = rng.integers(1, 9, len(said))
        lasts[[0, -1]] = rng.integers(0, 4, 2)
        owner = np.repeat(said, lasts)
        features.append(torch.from_numpy(centres[owner] + noise * rng.standard_normal((len(owner), DIM))).float())  # fmt: skip
        symbols.append(torch.from_numpy(said))
        counts.append(lasts)
    return features, symbols, counts, torch.from_numpy(centres).float()


def test_paths_are_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    gaussians = torch.stack(
        [torch.randn(4, 3, generator=generator), 0.5 + torch.rand(4, 3, generator=generator)], 1
    )
    lengths, said = (7, 4, 9), torch.tensor([0, 2, 1, 3, 0])
    features = [torch.randn(n, 3, generator=generator) for n in lengths]
    for own, counts in zip(features, align(features, [said] * 3, gaussians), strict=True):
        scores = torch.stack(
            [
                -((own - mean).square() / variance + variance.log()).sum(1) / 2
                for mean, variance in gaussians
            ],
            1,
        )
        n = len(own)
        # silences may be empty, the three symbols may not
        all_lasts = product(range(n), range(1, n), range(1, n), range(1, n), range(n))
        ways = [lasts for lasts in all_lasts if sum(lasts) == n]
        assert len(ways) > 3
        sums = [float(scores[torch.arange(n), said.repeat_interleave(torch.tensor(w))].sum()) for w in ways]  # fmt: skip
        assert tuple(counts) == ways[int(np.argmax(sums))]


def test_learns_who_says_what_from_texts_alone() -> None:
    features, symbols, counts, _ = made(200)
    mean, std = (f(torch.cat(features), 0) for f in (torch.mean, torch.std))
    features = [(own - mean) / std for own in features]
    gaussians, found = learn_gaussians(features, symbols, np.ones(VOCABULARY))
    assert gaussians.shape == (VOCABULARY, 2, DIM) and (gaussians[:, 1] > 0).all()
    owners = [
        np.concatenate([np.repeat(np.arange(len(c)), c) for c in every])
        for every in (found, counts)
    ]
    assert (owners[0] == owners[1]).mean() > 0.95
    # alone as among the others
    alone = align(features[:1], symbols[:1], gaussians)[0]
    assert alone.tolist() == align(features, symbols, gaussians)[0].tolist()


def test_durations_of_symbols_by_lengths_alone() -> None:
    _, symbols, _, _ = made(300)
    true = np.array([3.0, 2, 9, 4, 6, 3, 5])
    lengths = np.array([true[said.numpy()].sum() for said in symbols])
    found = durations_by_lengths(symbols, lengths, VOCABULARY)
    np.testing.assert_allclose(found, true, rtol=0.02)
    # one that never comes lasts as long as the mean, and none is far below it
    longer = durations_by_lengths(symbols, lengths, VOCABULARY + 1)
    assert min(true) < longer[-1] < max(true)


def test_one_recording_that_is_short_has_durations_too() -> None:
    symbols = [torch.tensor([0, 1, 2, 1, 0])]
    for length in (3.0, 5.0, 40.0):
        found = durations_by_lengths(symbols, np.array([length]), VOCABULARY)
        assert np.isfinite(found).all() and (found > 0).all()
    assert found[1] + found[2] + found[1] == pytest.approx(34.0, rel=0.1)


def test_durations_depend_on_neighbours() -> None:
    _, symbols, _, _ = made(800)
    rng = np.random.default_rng(1)
    own = 8 + 3 * rng.random(VOCABULARY)
    before, behind = 2 * rng.random(VOCABULARY), 2 * rng.random(VOCABULARY)
    counts = []
    for said in symbols:
        place = said.numpy()
        around = np.concatenate([[0], place, [0]])
        counts.append(own[place] + before[around[:-2]] + behind[around[2:]])
    learnt = learn_durations(symbols, counts, VOCABULARY)
    assert learnt.shape == (3, VOCABULARY)
    for said, true in zip(symbols, counts, strict=True):
        np.testing.assert_allclose(expected(learnt, said.numpy()), true, atol=0.15)
    assert (expected(learnt - 100, symbols[0].numpy()) == 1).all()


@pytest.mark.parametrize(
    ("durations", "n", "owners"),
    [
        ([1, 1, 1], 7, [0, 0, 0, 1, 1, 2, 2]),
        ([1, 1, 1], 3, [0, 1, 2]),
        ([1, 3], 8, [0, 0, 1, 1, 1, 1, 1, 1]),
        ([2, 1, 1], 2, [0, 1]),
    ],
)
def test_frames_are_shared(durations: list[float], n: int, owners: list[int]) -> None:
    assert shares(np.array(durations, float), n).tolist() == owners
