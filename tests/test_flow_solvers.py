"""Solvers, schedules and jumps against the closed-form Gaussian flow (float64)."""

import math

import numpy as np
import pytest
import torch
from gaussian import (
    FIELD,
    average_velocity,
    flow_map,
    marginal_velocity,
    warped_flow_map,
    warped_velocity,
)

from mfdistill.errors import UserError
from mfdistill.flow import SOLVERS, jump, schedule, solve, stages, sway, trajectory

Z = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
SCHEDULES = [
    1,
    2,
    7,
    [0.0, 0.4, 1.0],
    [0.0, 0.01, 0.02, 0.9, 1.0],
    sway(5),
    torch.tensor([0.0, 0.125, 1.0]),
]


def error(solver: str, steps: int) -> float:
    return (solve(warped_velocity, Z, steps, solver) - warped_flow_map(Z, 0.0, 1.0)).norm().item()


@pytest.mark.parametrize(
    ("solver", "order", "steps"),
    [("euler", 1, 256), ("midpoint", 2, 64), ("heun", 2, 64), ("rk4", 4, 128)],
)
def test_error_falls_at_the_order(solver, order, steps):
    measured = math.log2(error(solver, steps) / error(solver, 2 * steps))
    assert abs(measured - order) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_stages_are_counted_and_times_stay_in_the_interval(solver):
    seen = []

    def velocity(z, t):
        assert t.shape == (4,)
        seen.append(t)
        return marginal_velocity(z, t)

    solve(velocity, Z, [0.25, 0.5, 1.0], solver)
    assert len(seen) == 2 * stages(solver)
    assert min(t.min() for t in seen) == 0.25 and max(t.max() for t in seen) <= 1.0


def test_midpoint_is_the_default():
    assert torch.equal(
        solve(marginal_velocity, Z, 3), solve(marginal_velocity, Z, 3, solver="midpoint")
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_exact_on_a_straight_flow(solver):
    torch.testing.assert_close(
        solve(lambda z, t: torch.ones_like(z), Z, [0.25, 0.375, 1.0], solver), Z + 0.75
    )


@pytest.mark.parametrize("steps", SCHEDULES)
def test_jumps_with_the_exact_average_velocity_are_exact(steps):
    torch.testing.assert_close(
        jump(average_velocity, Z, steps), flow_map(Z, 0.0, 1.0), rtol=1e-12, atol=1e-12
    )


def test_jumps_from_the_middle():
    z_t = flow_map(Z, 0.0, 0.3)
    torch.testing.assert_close(
        jump(average_velocity, z_t, [0.3, 0.45, 0.8]), flow_map(Z, 0.0, 0.8), rtol=1e-12, atol=1e-12
    )


def test_the_wrong_sign_or_clock_is_far_off():
    exact = flow_map(Z, 0.0, 1.0)
    assert (jump(lambda z, t, r: -average_velocity(z, t, r), Z, 1) - exact).norm() > 1
    assert (solve(lambda z, t: -marginal_velocity(z, t), Z, 50) - exact).norm() > 1
    assert (solve(lambda z, t: marginal_velocity(z, 1 - t), Z, 50) - exact).norm() > 0.5
    with pytest.raises(UserError, match="ascend"):
        solve(marginal_velocity, Z, [1.0, 0.0])


def test_the_sampled_distribution_is_the_target():
    z_0, _ = FIELD.end_points(
        torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(1)
    )
    z_1 = jump(average_velocity, z_0, 1)
    assert abs(z_1.mean().item() + 0.7) < 0.01 and abs(z_1.std().item() - 0.25) < 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory_holds_every_state(solver):
    grid = [0.0, 0.25, 0.5, 1.0]
    states = trajectory(marginal_velocity, Z, grid, solver)
    assert states.shape == (4, *Z.shape) and torch.equal(states[0], Z)
    for k in range(1, 4):
        assert torch.equal(states[k], solve(marginal_velocity, Z, grid[: k + 1], solver))


@pytest.mark.parametrize("solver", SOLVERS)
def test_per_sample_grids_equal_one_solve_per_sample(solver):
    grids = torch.tensor(
        [[0.0, 0.5, 1.0], [0.25, 0.5, 0.75], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64
    ).T
    together = solve(marginal_velocity, Z, grids, solver)
    torch.testing.assert_close(
        together[:1], solve(marginal_velocity, Z[:1], [0.0, 0.5, 1.0], solver)
    )
    torch.testing.assert_close(
        together[1:2], solve(marginal_velocity, Z[1:2], [0.25, 0.5, 0.75], solver)
    )
    assert torch.equal(together[2], Z[2])
    torch.testing.assert_close(together[3:], solve(marginal_velocity, Z[3:], 1, solver))


def test_bad_grids():
    for grid in (
        torch.tensor([[0.5], [0.0]]),
        torch.tensor([[0.0], [1.5]]),
        torch.tensor([[0.0], [math.nan]]),
    ):
        with pytest.raises(UserError, match="grid of times"):
            solve(marginal_velocity, Z[:1], grid)
    with pytest.raises(ValueError, match="per-sample"):
        solve(marginal_velocity, Z, torch.zeros(3, 2))


def test_schedules():
    assert schedule(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert schedule((0, 0.3, 1)) == [0.0, 0.3, 1.0]
    assert sway(4) == pytest.approx([0, 0.0761, 0.2929, 0.6173, 1], abs=1e-4)
    assert sway(3, s=0) == pytest.approx(schedule(3))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "1 or more"),
        ([0.5], "no interval"),
        ([0.0, 1.2], "leaves"),
        ([0.0, 0.5, 0.5, 1.0], "ascend"),
        ([0.0, math.nan], "leaves"),
        ([-0.1, 1.0], "leaves"),
        ([0.0, 1.0, 1.0], "ascend"),
        (-1, "1 or more"),
        (10_001, "at most 10000"),
        ([k / 10_001 for k in range(10_002)], "at most 10001"),
        (["a", 1.0], "neither a number nor a list"),
        (None, "neither a number nor a list"),
        ([0, 10**400], "neither a number nor a list"),
    ],
)
def test_bad_schedules_are_explained(steps, message):
    with pytest.raises(UserError, match=message):
        schedule(steps)


def test_the_longest_schedules_and_other_kinds_of_numbers():
    assert len(schedule(10_000)) == 10_001 == len(schedule(schedule(10_000)))
    assert schedule(np.int64(2)) == [0.0, 0.5, 1.0] == schedule(torch.tensor([0, 0.5, 1]))
    assert schedule([0, 1]) == [0.0, 1.0] == schedule(1)
    assert sway([0.0, 0.5, 1.0]) == pytest.approx([0, 1 - math.sqrt(0.5), 1])
    # from the ends exactly, wherever the times began
    assert sway([0.25, 0.5, 0.75], 0.5) == pytest.approx([0, 0.5 + 0.5 * (math.sqrt(0.5) - 0.5), 1])
    assert [stages(name) for name in SOLVERS] == [1, 2, 2, 4]


def test_single_precision_grids_of_single_samples():
    """A grid of two times of one sample, and one of many of a batch; what does not fit is told."""
    grid = torch.tensor([[0.25], [0.75]])
    found = solve(lambda z, t: torch.ones_like(z), Z[:1], grid, "euler")
    torch.testing.assert_close(found, Z[:1] + 0.5)
    for bad in (torch.zeros(1, 4), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"must be \(k\+1, b\) with b = 4"):
            solve(marginal_velocity, Z, bad)
    for worse in ([[-0.1], [1.0]], [[0.0], [1.1]], [[0.0], [0.9], [0.8]]):
        with pytest.raises(UserError, match="grid of times descends or leaves"):
            jump(average_velocity, Z[:1], torch.tensor(worse))


def test_unknown_solver_names_the_known_ones():
    with pytest.raises(UserError, match="euler, midpoint, heun, .*rk4"):
        solve(marginal_velocity, Z, 1, "rk5")
    with pytest.raises(UserError, match="rk5"):
        stages("rk5")
