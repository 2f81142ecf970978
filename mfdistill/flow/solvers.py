"""Fixed-grid solvers of ``dz/dt = v(z, t)``, schedules, and jumps with an average velocity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow.paths import expand_time
from mfdistill.flow.tableaus import Tableau, tableau, tableau_step

Velocity = Callable[[Tensor, Tensor], Tensor]  # (z (b, ...), t (b,)) -> dz/dt, shaped like z
AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z (b, ...), t (b,), r (b,)) -> u
MOST_STEPS = 10_000
Steps = int | Sequence[float] | Tensor


def _euler(velocity: Velocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    return z + expand_time(r - t, z) * velocity(z, t)


def _midpoint(velocity: Velocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    h = expand_time(r - t, z)
    return z + h * velocity(z + h / 2 * velocity(z, t), t + (r - t) / 2)


def _heun(velocity: Velocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    h = expand_time(r - t, z)
    k_1 = velocity(z, t)
    return z + h / 2 * (k_1 + velocity(z + h * k_1, r))


def _rk4(velocity: Velocity, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    h, half = expand_time(r - t, z), t + (r - t) / 2
    k_1 = velocity(z, t)
    k_2 = velocity(z + h / 2 * k_1, half)
    k_3 = velocity(z + h / 2 * k_2, half)
    return z + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + velocity(z + h * k_3, r))


# one step from t to r; of order 1, 2, 2, 4
SOLVERS: dict[str, Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]] = {
    "euler": _euler,
    "midpoint": _midpoint,
    "heun": _heun,
    "rk4": _rk4,
}
_STAGES = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def stages(solver: str | Tableau) -> int:
    """Evaluations of the velocity per step."""
    if isinstance(solver, Tableau):
        return solver.stages
    return _STAGES[solver] if solver in _STAGES else tableau(solver).stages


def schedule(steps: int | Sequence[float]) -> list[float]:
    """The times of a schedule: ``steps`` uniform steps from 0 to 1, or the given times, checked.

    Raises:
        UserError: unless there is at least one step and the times ascend strictly within [0, 1].
    """
    if isinstance(steps, (int, Integral)):  # numpy's integers too
        steps = int(steps)
        if steps < 1:
            raise UserError(
                f"steps: {steps} is not a number of steps; give 1 or more, or a list of times from 0 to 1"
            )
        if steps > MOST_STEPS:
            raise UserError(f"steps: {steps} are too many; give at most {MOST_STEPS}")
        return [i / steps for i in range(steps + 1)]
    try:
        times = [float(time) for time in steps]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"steps: {steps!r:.60} is neither a number nor a list of times") from error
    if len(times) > MOST_STEPS + 1:
        raise UserError(f"steps: a schedule of {len(times)} times; give at most {MOST_STEPS + 1}")
    if len(times) < 2:
        raise UserError(
            f"steps: the schedule {times} has no interval; give two times or more, such as 0, 1"
        )
    if not all(0 <= time <= 1 for time in times):
        raise UserError(
            f"steps: the schedule {times} leaves [0, 1], where 0 is the prior and 1 the data"
        )
    if any(a >= b for a, b in zip(times, times[1:], strict=False)):
        raise UserError(
            f"steps: the schedule {times} does not ascend; times run from 0 (prior) to 1 (data)"
        )
    return times


def sway(steps: int | Sequence[float], s: float = -1.0) -> list[float]:
    """F5-TTS's sway sampling (arXiv 2410.06885): ``t + s (cos(pi t / 2) - 1 + t)`` on ``steps``
    uniform steps or on the given times from 0 to 1; s < 0 puts more of them near the prior, -1 is
    CosyVoice's cosine schedule, 0 changes nothing.
    """
    times = [t + s * (math.cos(math.pi * t / 2) - 1 + t) for t in schedule(steps)]
    return schedule([0.0, *times[1:-1], 1.0])


def solve(
    velocity: Velocity, z: Tensor, steps: Steps, solver: str | Tableau = "midpoint"
) -> Tensor:
    """Carry ``z`` (b, ...) from the first time of ``steps`` to the last.

    Args:
        velocity: (z, t (b,)) -> dz/dt.
        steps: a number of uniform steps from 0 to 1; a list of times; or a tensor (k+1,) or (k+1,
            b) of times, one grid per sample, which may stand still (an interval of length 0 leaves
            its sample as it is).
        solver: a name in `SOLVERS`, one of the tables and compositions of `tableau`, such as
            ``2xmidpoint+1xeuler@0.2``, or a table.

    Raises:
        UserError: a schedule that does not ascend within [0, 1], or an unknown solver.
    """
    step = _step(solver)
    for t, r in _intervals(steps, z):
        z = step(velocity, z, t, r)
    return z


def trajectory(
    velocity: Velocity, z: Tensor, steps: Steps, solver: str | Tableau = "midpoint"
) -> Tensor:
    """As `solve`, with every state on the grid: (k+1, b, ...), the first being ``z`` itself."""
    step, states = _step(solver), [z]
    for t, r in _intervals(steps, z):
        states.append(step(velocity, states[-1], t, r))
    return torch.stack(states)


def jump(average_velocity: AverageVelocity, z: Tensor, steps: Steps) -> Tensor:
    """Sample with an average velocity: ``z_r = z_t + (r - t) u(z_t, t, r)`` over the intervals of
    ``steps`` (as in `solve`): one evaluation each, and no discretisation error when u is exact.
    """
    for t, r in _intervals(steps, z):
        z = z + expand_time(r - t, z) * average_velocity(z, t, r)
    return z


def _step(solver: str | Tableau) -> Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]:
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]
    table = tableau(solver) if isinstance(solver, str) else solver
    return lambda velocity, z, t, r: tableau_step(velocity, z, t, r, table)


def _intervals(steps: Steps, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (t, r), each (b,): float64 beside float64 states, float32 beside all others (bf16 times
    would be off by 0.4 %).
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    if isinstance(steps, Tensor) and steps.ndim == 2:
        grid = steps.to(device=z.device, dtype=dtype)
        if grid.shape[0] < 2 or grid.shape[1] != z.shape[0]:
            raise ValueError(
                f"per-sample grids must be (k+1, b) with b = {z.shape[0]}, got {tuple(grid.shape)}"
            )
        if not bool(
            ((grid.diff(dim=0) >= 0).all() & (grid[0] >= 0).all() & (grid[-1] <= 1).all()).item()
        ):
            raise UserError(
                "steps: a grid of times descends or leaves [0, 1]; times run from 0 (prior) to 1 (data)"
            )
    else:
        times = schedule(steps.tolist() if isinstance(steps, Tensor) else steps)
        grid = torch.tensor(times, dtype=dtype, device=z.device)[:, None].expand(-1, z.shape[0])
    return zip(grid[:-1], grid[1:], strict=True)
