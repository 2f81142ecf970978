"""How commands read --nfe, --schedule and --solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfdistill.distill.inference import Steps
    from mfdistill.distill.opening import Model
    from mfdistill.flow import Tableau


def sampling(
    solver: str | None, nfe: int | None, schedule: Sequence[float] | None, model: Model
) -> tuple[Model, Steps | None]:
    """The model under the solver that --solver names, and the steps; errors as the two functions
    below.
    """
    if solver is None:
        return model, chosen_steps(nfe, schedule, model)
    found, steps = solver_steps(solver, nfe)
    return model.solved_by(found), chosen_steps(steps, schedule, model)


def chosen_steps(nfe: int | None, schedule: Sequence[float] | None, model: Model) -> Steps | None:
    """The steps that the options --nfe and --schedule ask of a model; None is its own schedule.

    Raises:
        UserError: both, or values that make no schedule.
    """
    from mfdistill.errors import UserError

    if nfe is not None and schedule is not None:
        raise UserError("--nfe and --schedule exclude each other: give one of them")
    if nfe is not None and nfe < 1:
        raise UserError(f"--nfe {nfe}: must be at least 1")
    if schedule is not None:
        times = list(schedule)
        if (
            len(times) < 2
            or times[0] != 0
            or times[-1] != 1
            or any(b <= a for a, b in zip(times, times[1:], strict=False))
        ):
            raise UserError(
                f"--schedule {' '.join(f'{t:g}' for t in times)}: needs times that ascend from 0 to 1, such as 0 0.4 1"
            )
        return times
    if model.role == "regression" and (nfe or 1) != 1:
        raise UserError(f"--nfe {nfe}: a regression network has one evaluation; leave it out")
    return None if nfe is None else model.schedule(nfe)[1]


def solver_steps(text: str, nfe: int | None) -> tuple[str | Tableau, int | None]:
    """A solver as --solver names it, and how many of its steps make ``nfe`` evaluations; None is
    one step.

    Raises:
        UserError: no such solver, or evaluations that make no whole steps.
    """
    from mfdistill.errors import UserError
    from mfdistill.flow.solvers import stages
    from mfdistill.search.learned import find_solver

    solver = find_solver(text)
    each = stages(solver)
    if nfe is not None and nfe % each:
        raise UserError(
            f"--nfe {nfe}: one step of {text} has {each} evaluations; give a multiple of that, or leave --nfe out"
        )
    return solver, None if nfe is None else nfe // each
