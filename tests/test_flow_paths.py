"""Paths and random draws."""

import math

import pytest
import torch
from gaussian import GaussianFlow

from mfdistill.errors import UserError
from mfdistill.flow import (
    GaussianPath,
    batch_time,
    draws,
    expand_time,
    interpolate,
    noise_like,
    time_per_sample,
)

INDEX = torch.arange(6)
SHAPE = (2, 5, 7)


def eps_x_y():
    return (
        draws.noise(0, INDEX, "eps", SHAPE),
        draws.normal(0, INDEX, "x", SHAPE),
        draws.normal(0, INDEX, "y", SHAPE),
    )


@pytest.mark.parametrize("mean", ["y", "zero"])
@pytest.mark.parametrize("shape", ["flat", "magnitude"])
def test_end_points(mean, shape):
    eps, x, y = eps_x_y()
    path = GaussianPath(0.5, sigma_1=0.1, mean=mean, shape=shape, floor=0.3)
    z_0, z_1 = path.end_points(x, {"y": y}, eps)
    scale = (
        1 if shape == "flat" else torch.hypot(torch.hypot(y[:, :1], y[:, 1:]), torch.tensor(0.3))
    )
    torch.testing.assert_close(z_0, (y if mean == "y" else 0) + 0.5 * scale * eps)
    torch.testing.assert_close(z_1, x + 0.1 * scale * eps)
    # where sampling starts is where training started
    assert torch.equal(path.prior({"y": y}, eps), z_0)
    assert path.scales({"y": y}, x)[0].expand(6, 1, 5, 7) is not None


def test_flat_zero_mean_needs_no_condition():
    eps, x, _ = eps_x_y()
    assert torch.equal(GaussianPath(1.0, mean="zero").prior({}, eps), eps)
    assert torch.equal(GaussianPath(1.0, sigma_1=0.0, mean="zero").end_points(x, {}, eps)[1], x)


def test_interpolate_is_exact_at_both_ends_and_takes_any_time():
    eps, x, _ = eps_x_y()
    assert torch.equal(interpolate(eps, x, torch.zeros(6)), eps)
    assert torch.equal(interpolate(eps, x, 1.0), x)
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 0.5])
    torch.testing.assert_close(interpolate(eps, x, t)[1], 0.75 * eps[1] + 0.25 * x[1])
    torch.testing.assert_close(interpolate(eps, x, torch.tensor(0.5)), (eps + x) / 2)
    with pytest.raises(ValueError, match="one time per sample"):
        interpolate(eps, x, torch.zeros(5))


def test_noise_has_total_variance_one():
    z = noise_like((4, 2, 64, 256), torch.Generator().manual_seed(0))
    assert abs(z.square().sum(1).mean().item() - 1) < 0.02
    assert torch.equal(z, noise_like((4, 2, 64, 256), torch.Generator().manual_seed(0)))


def test_marginal_of_the_path_is_the_closed_form():
    """Regress the conditional velocity on z_t: slope and intercept are those of the marginal
    velocity, mean and spread those of z_t.
    """
    n, t, path = 40_000, 0.6, GaussianPath(0.8, sigma_1=0.2)
    index = torch.arange(1)
    eps, data = (
        draws.noise(1, index, "eps", (n, 1), dtype=torch.float64),
        draws.normal(1, index, "x", (n, 1), dtype=torch.float64),
    )
    eps, data = eps.reshape(n, 1), data.reshape(n, 1)
    field = GaussianFlow.of_path(path, mu=-0.7, s=0.25, y=0.3)
    z_0, z_1 = path.end_points(-0.7 + 0.25 * data, {"y": torch.full_like(eps, 0.3)}, eps)
    torch.testing.assert_close(z_0, field.end_points(eps / math.sqrt(0.5), data)[0])
    z_t, velocity = interpolate(z_0, z_1, t), z_1 - z_0
    assert abs(z_t.std().item() / field.std(torch.tensor(t)).item() - 1) < 0.02
    centred = z_t - z_t.mean()
    slope = ((centred * velocity).mean() / centred.square().mean()).item()
    ends = field.marginal_velocity(torch.tensor([[0.0], [1.0]], dtype=torch.float64), t)
    assert abs(slope - (ends[1] - ends[0]).item()) < 0.03
    assert abs((velocity - slope * z_t).mean().item() - ends[0].item()) < 0.02


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"sigma_0": -1.0}, "sigma_0"),
        ({"sigma_0": math.nan}, "sigma_0"),
        ({"sigma_0": 0.0, "mean": "zero"}, "sigma_0"),
        ({"sigma_0": 1.0, "mean": "x"}, "mean"),
        ({"sigma_0": 1.0, "shape": "round"}, "shape"),
        ({"sigma_0": 1.0, "shape": "magnitude", "floor": 0.0}, "floor"),
        ({"sigma_0": 1.0, "sigma_1": math.inf}, "sigma_1"),
        ({"sigma_0": 1.0, "temperature": -0.1}, "temperature"),
        ({"sigma_0": 1.0, "shape": "profile"}, "profile"),
        ({"sigma_0": 1.0, "profile": (1.0,)}, "profile"),
        ({"sigma_0": 1.0, "shape": "profile", "profile": (1.0, 0.0)}, "profile"),
    ],
)
def test_bad_paths_are_named(kwargs, name):
    with pytest.raises(UserError, match=name):
        GaussianPath(**kwargs)


def test_draws_do_not_depend_on_the_split():
    index = torch.tensor([3, 900_000_000_000, 0, 7])
    for whole, part in (
        (draws.normal(5, index, "noise", (2, 3)), draws.normal(5, index[1:3], "noise", (2, 3))),
        (draws.uniform(5, index, "times", 4), draws.uniform(5, index[1:3], "times", 4)),
    ):
        assert whole.shape[0] == 4
        assert torch.equal(whole[1:3], part)
    assert torch.equal(
        draws.noise(5, index, "a", (2, 3)), draws.normal(5, index, "a", (2, 3)) * math.sqrt(0.5)
    )


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    draws.uniform(0, INDEX, "a")
    assert torch.equal(torch.rand(1), expected)


def test_draws_differ_between_seeds_samples_and_streams():
    index = torch.arange(3000)
    rows = torch.cat(
        [draws.uniform(seed, index, stream, 2) for seed in (0, 1) for stream in ("a", "b")]
    )
    assert len(torch.unique(rows, dim=0)) == len(rows)
    matrix = torch.stack(
        [draws.uniform(seed, index, stream)[:, 0] for seed in (0, 1) for stream in ("a", "b")]
    )
    off_diagonal = torch.corrcoef(matrix) - torch.eye(4)
    assert off_diagonal.abs().max() < 0.08  # 4.4 standard errors
    # neighbouring samples
    assert torch.corrcoef(torch.stack([matrix[0, :-1], matrix[0, 1:]]))[0, 1].abs() < 0.08


def test_draws_have_the_right_distribution():
    """Kolmogorov-Smirnov distances over samples (not within one), against 1.95 / sqrt(n): p =
    0.001.
    """
    n = 4000
    grid = (torch.arange(n) + 0.5) / n
    u = draws.uniform(0, torch.arange(n), "u", 3)
    assert u.min() >= 0 and u.max() < 1
    normal = torch.special.ndtr(draws.normal(0, torch.arange(n), "n", (2,)))
    for column in (*u.T, *normal.T):
        assert (column.sort().values - grid).abs().max() < 1.95 / math.sqrt(n)


def test_draws_refuse_a_float_index():
    with pytest.raises(ValueError, match="integers"):
        draws.uniform(0, torch.zeros(3), "a")


def test_temperature_scales_what_is_sampled_and_not_what_is_trained_on() -> None:
    cond, x, eps = {"y": torch.randn(2, 2, 3, 4)}, torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    warm, cool = GaussianPath(0.5, 0.1, mean="y"), GaussianPath(0.5, 0.1, mean="y", temperature=0.4)
    for a, b in zip(warm.end_points(x, cond, eps), cool.end_points(x, cond, eps), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(
        cool.prior(cond, eps) - cond["y"], 0.4 * (warm.prior(cond, eps) - cond["y"])
    )
    assert torch.equal(
        GaussianPath(0.5, 0.1, mean="y", temperature=0.0).prior(cond, eps), cond["y"]
    )


def test_the_numbers_of_a_run_are_those_of_earlier_versions():
    """A run that is resumed by a later version meets the same noise."""
    # MurmurHash3's finaliser: its known values
    assert [draws._mix(value) for value in (0, 1, 0xDEADBEEF)] == [0, 0x514E28B7, 0x0DE5C6A9]
    seeds = {
        (5, "times"): [550961741, 257918882, 3591220475],
        (6, "noise"): [989886444, 242095756, 2934887157],
    }
    index = torch.tensor([0, 3, 900_000_000_000])
    for (seed, stream), wanted in seeds.items():
        generators = draws._generators(seed, index, stream)
        assert [generator.initial_seed() for generator in generators] == wanted
        first = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        assert torch.equal(draws.uniform(seed, index, stream, 2), first)
    assert draws.uniform(0, INDEX, "a").shape == (6, 1)


def test_draws_have_the_precision_that_is_asked_for():
    for dtype in (torch.float32, torch.float64):
        for value in (
            draws.uniform(0, INDEX, "a", 2, dtype=dtype),
            draws.normal(0, INDEX, "a", (2,), dtype=dtype),
            draws.noise(0, INDEX, "a", (2,), dtype=dtype),
        ):
            assert value.dtype == dtype and value.shape == (6, 2)
    # not single precision made longer
    fine = draws.uniform(0, INDEX, "a", 9, dtype=torch.float64)
    assert not torch.equal(fine, fine.float().double())
    with pytest.raises(ValueError, match="integers"):
        draws.normal(0, torch.zeros(3, 1, dtype=torch.int64), "a", (2,))


@pytest.mark.parametrize("shape", ["flat", "magnitude", "profile"])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_a_late_start_has_the_spread_of_its_time(shape, t):
    """Around the prior's mean, ``temperature ((1 - t) s_0 + t s_1)`` wide: MeanFlowSE's start."""
    eps, x, y = eps_x_y()
    profile = {"profile": (1.0, 2.0, 0.5, 4.0, 0.1)} if shape == "profile" else {}
    path = GaussianPath(0.5, 0.1, "y", shape, floor=0.3, temperature=0.7, **profile)
    sigma = {0.0: 0.5, 0.25: 0.4, 1.0: 0.1}[t]
    unit = {
        "flat": torch.ones(1),
        "magnitude": (y.square().sum(1, keepdim=True) + 0.09).sqrt(),
        "profile": torch.tensor([1.0, 2.0, 0.5, 4.0, 0.1])[:, None],
    }[shape]
    torch.testing.assert_close(path.prior({"y": y}, eps, t), y + 0.7 * sigma * unit * eps)
    z_0, z_1 = path.end_points(x, {"y": y}, eps)
    torch.testing.assert_close(z_0, y + 0.5 * unit * eps)
    torch.testing.assert_close(z_1, x + 0.1 * unit * eps)


def test_the_mean_may_be_an_estimate_or_nothing():
    eps, x, y = eps_x_y()
    e = x + 1
    path = GaussianPath(0.5, mean="e", shape="magnitude")
    assert torch.equal(path.end_means(x, {"y": y, "e": e})[0], e)
    # the magnitude is that of the condition
    scale = (y.square().sum(1, keepdim=True) + 0.02**2).sqrt()
    torch.testing.assert_close(path.scales({"y": y, "e": e}, x)[0], 0.5 * scale)
    assert path.end_means(x, {"y": y, "e": e})[1] is x
    assert GaussianPath(0.5).sigma_1 == 0.001
    double = path.prior({"y": y, "e": e}, eps.double())
    assert (
        double.dtype == torch.float64
        and path.scales({"y": y}, eps.double())[0].dtype == torch.float64
    )


def test_times_of_every_shape():
    z = torch.zeros(3, 2, 4)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        state = z.to(dtype)
        full = torch.float64 if dtype == torch.float64 else torch.float32
        for t in (0.1, torch.tensor(0.1), torch.full((3,), 0.1), torch.full((3,), 0.1).double()):
            found = batch_time(t, state)
            assert found.shape == (3,) and found.dtype == full
            torch.testing.assert_close(
                found.double(), torch.full((3,), 0.1).double(), atol=1e-8, rtol=0
            )
            wide = expand_time(t, state)
            assert wide.shape == (3, 1, 1) and wide.dtype == dtype
    for t in (
        torch.full((3, 1), 0.1),
        torch.full((1,), 0.1),
        torch.tensor(0.1),
        torch.tensor([0.1] * 3),
    ):
        for own in (torch.float32, torch.float64):
            found = time_per_sample(t.to(own), z)
            assert found.dtype == own and torch.equal(found, t.to(own).reshape(-1).expand(3))
    assert torch.equal(time_per_sample(0.25, z), torch.full((3,), 0.25))
    for t in (torch.zeros(2), torch.zeros(3, 1), torch.zeros(1)):
        with pytest.raises(ValueError, match="one time per sample"):
            batch_time(t, z)


def test_noise_of_a_precision_and_without_a_generator():
    torch.manual_seed(0)
    wanted = torch.randn(2, 2, 3, dtype=torch.float64) * math.sqrt(0.5)
    torch.manual_seed(0)
    assert torch.equal(noise_like((2, 2, 3), dtype=torch.float64), wanted)
    assert noise_like((1, 2), torch.Generator().manual_seed(0)).dtype == torch.float32
