"""Times and intervals."""

import math

import pytest
import torch

from mfdistill.errors import UserError
from mfdistill.flow import (
    IntervalConfig,
    TimeConfig,
    annealed_gamma,
    draws,
    sample_interval,
    sample_time,
)

N = 4000
U = draws.uniform(0, torch.arange(N), "times", 3)
GRID = (torch.arange(N) + 0.5) / N


def distance(values: torch.Tensor) -> float:
    """Kolmogorov-Smirnov distance from U(0, 1), in units of the one that p = 0.001 allows."""
    return ((values.sort().values - GRID).abs().max() / 1.95 * math.sqrt(N)).item()


def test_teacher_times():
    assert torch.equal(sample_time(TimeConfig(), U), U[:, 0])
    t = sample_time(TimeConfig("logit-normal", mean=-0.4, std=0.7), U[:, 0])
    assert distance(torch.special.ndtr((torch.logit(t) + 0.4) / 0.7)) < 1
    assert sample_time(TimeConfig("logit-normal"), torch.zeros(2)).isfinite().all()


@pytest.mark.parametrize("kind", ["uniform", "logit-normal", "start-gap"])
@pytest.mark.parametrize("gamma", [1.0, 8.0])
def test_intervals_keep_their_promises(kind, gamma):
    config = IntervalConfig(
        kind, p_equal=0.25, p_full=0.125, anneal_start=gamma, anneal_end=gamma, min_gap=1e-2
    )
    edges = torch.tensor(
        [
            [a, b, c]
            for a in (0.0, 1 - 2**-24)
            for b in (0.0, 1 - 2**-24)
            for c in (0.0, 0.5, 1 - 2**-24)
        ]
    )
    t, r = sample_interval(config, torch.cat([U, edges]), 0.3)
    assert t.dtype == r.dtype == torch.float32 and t.shape == r.shape == (N + 12,)
    assert t.min() >= 0 and r.max() <= 1
    equal, full = t == r, (t == 0) & (r == 1)
    assert ((r - t)[~equal] >= 1e-2).all()
    assert torch.equal(equal[:N], U[:, 2] < 0.25)
    assert (full[:N] >= (U[:, 2] >= 0.875)).all() and abs(full[:N].float().mean() - 0.125) < 0.02


def test_uniform_pairs_are_sorted_uniforms():
    t, r = sample_interval(IntervalConfig(min_gap=1e-6), U)
    torch.testing.assert_close(
        torch.stack([t, r], 1), U[:, :2].sort(dim=1).values, atol=3e-6, rtol=0
    )


def test_logit_normal_pairs_are_sorted_logit_normals():
    t, r = sample_interval(IntervalConfig("logit-normal", mean=0.4, std=0.8, min_gap=1e-6), U)
    expected = (
        torch.sigmoid(0.4 + 0.8 * torch.special.ndtri(U[:, :2].double())).sort(dim=1).values.float()
    )
    torch.testing.assert_close(torch.stack([t, r], 1), expected, atol=3e-6, rtol=0)


def test_anchors_cover_time_as_teacher_training_does():
    t, r = sample_interval(IntervalConfig(p_equal=1.0), U)
    assert torch.equal(t, U[:, 0]) and torch.equal(t, r)


def test_annealed_gap_is_meanflowse_mirrored():
    """MeanFlowSE, in its clock: t = (1-U)(1 - t_eps) + t_eps, r = t - U2^gamma (t - t_eps), t_eps
    0.03, gamma 8 -> 1 over 0.7.
    """
    config = IntervalConfig(
        "start-gap", anneal_start=8, anneal_end=1, anneal_fraction=0.7, t_max=0.97, min_gap=1e-6
    )
    for progress, gamma in ((0.0, 8.0), (0.35, 4.5), (0.7, 1.0), (1.0, 1.0)):
        assert annealed_gamma(config, progress) == pytest.approx(gamma)
        official_t = (1 - U[:, 0].double()) * 0.97 + 0.03
        official_r = official_t - U[:, 1].double() ** gamma * (official_t - 0.03)
        t, r = sample_interval(config, U, progress)
        torch.testing.assert_close(t.double(), 1 - official_t, atol=3e-6, rtol=0)
        torch.testing.assert_close(r.double(), 1 - official_r, atol=3e-6, rtol=0)


@pytest.mark.parametrize("kind", ["uniform", "logit-normal", "start-gap"])
def test_annealing_starts_with_small_gaps_and_ends_without_a_trace(kind):
    off, on = IntervalConfig(kind), IntervalConfig(kind, anneal_start=8, anneal_end=1)
    gaps = [
        (r - t).mean().item()
        for t, r in (sample_interval(on, U, progress) for progress in (0.0, 0.35, 0.7))
    ]
    assert gaps[0] < gaps[1] < gaps[2]
    for a, b in zip(sample_interval(on, U, 0.7), sample_interval(off, U, 0.0), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"kind": "sorted"}, "kind"),
        ({"p_equal": 0.7, "p_full": 0.7}, "p_equal"),
        ({"p_equal": -0.1}, "p_equal"),
        ({"min_gap": 0.0}, "min_gap"),
        ({"t_max": 1.5}, "t_max"),
        ({"std": 0.0}, "std"),
        ({"anneal_start": 0.0}, "anneal_start"),
        ({"anneal_end": -1.0}, "anneal_end"),
        ({"anneal_fraction": -0.1}, "anneal_fraction"),
        ({"p_full": -0.1}, "p_full"),
        ({"p_full": 1.01}, "p_full"),
        ({"t_min": -0.1}, "t_min"),
        ({"t_min": 0.5, "t_max": 0.5}, "t_min"),
        ({"min_gap": 1.0}, "min_gap"),
        ({"t_min": 0.5, "t_max": 0.75, "min_gap": 0.25}, "min_gap"),
    ],
)
def test_bad_intervals_are_named(kwargs, name):
    with pytest.raises(UserError, match=name):
        IntervalConfig(**kwargs)


def test_bad_times_are_named():
    with pytest.raises(UserError, match="kind"):
        TimeConfig("cosine")  # type: ignore[arg-type]
    for std in (0.0, -1.0):
        with pytest.raises(UserError, match="times std"):
            TimeConfig("logit-normal", std=std)
    for u in (U[:, :2], U[0]):
        with pytest.raises(ValueError, match="3 or more"):
            sample_interval(IntervalConfig(), u)


def test_what_is_just_allowed():
    assert IntervalConfig(p_equal=0.5, p_full=0.5, anneal_fraction=0.0).p_full == 0.5
    assert IntervalConfig(p_equal=1.0).p_equal == IntervalConfig(p_full=1.0).p_full == 1
    assert annealed_gamma(IntervalConfig(anneal_start=8, anneal_fraction=0.0), 0.001) == 1
    assert annealed_gamma(IntervalConfig(anneal_start=8, anneal_fraction=0.0), 0.0) == 8


def test_the_rarest_draws():
    """A choice of exactly 0 is no anchor where there are none; quantiles of 0 and 1 are bounded."""
    u = torch.tensor([[0.5, 0.75, 0.0]])
    t, r = sample_interval(IntervalConfig(), u)
    assert (t, r) == (0.5, 0.75)
    for kind in ("uniform", "start-gap"):
        t, r = sample_interval(IntervalConfig(kind, p_equal=0.25), torch.tensor([[0.5, 0.5, 0.25]]))
        assert r > t == 0.5
    config = TimeConfig("logit-normal", mean=0.3, std=0.5)
    for dtype in (torch.float32, torch.float64):
        edge = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
        far = float(torch.special.ndtri(torch.tensor(2.0**-26, dtype=torch.float64)))
        bound = torch.sigmoid(torch.tensor([0.3 + 0.5 * far, 0.3 - 0.5 * far])).to(dtype)
        t = sample_time(config, edge)
        torch.testing.assert_close(t[0], bound[0], rtol=1e-6, atol=0)
        # float32 ends at 1 - 2^-24
        torch.testing.assert_close(
            t[1], bound[1], rtol=1e-6 if dtype == torch.float64 else 0.01, atol=0
        )


def test_whole_intervals_and_anchors_in_a_part_of_time():
    """MeanFlowSE's t_max and t_min: anchors and intervals lie within, whole ones end at 1."""
    config = IntervalConfig(p_equal=0.25, p_full=0.25, t_min=0.25, t_max=0.75)
    t, r = sample_interval(config, U)
    full, equal = U[:, 2] >= 0.75, U[:, 2] < 0.25
    assert (t[full] == 0.25).all() and (r[full] == 1).all()
    torch.testing.assert_close(t[equal], 0.25 + U[equal, 0] / 2, atol=1e-6, rtol=0)
    assert torch.equal(t[equal], r[equal])
    rest = ~(full | equal)
    pairs = 0.25 + U[rest, :2].sort(dim=1).values / 2
    close = pairs.diff(dim=1)[:, 0] < 2e-3
    found = torch.stack([t[rest], r[rest]], 1)
    torch.testing.assert_close(found[~close], pairs[~close], atol=1e-6, rtol=0)
    assert (found.diff(dim=1) >= 1e-3).all() and r[rest].max() <= 0.75 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_have_the_precision_of_their_draws(dtype):
    t, r = sample_interval(IntervalConfig("logit-normal"), U[:4].to(dtype))
    assert t.dtype == r.dtype == dtype == sample_time(TimeConfig("logit-normal"), U.to(dtype)).dtype
