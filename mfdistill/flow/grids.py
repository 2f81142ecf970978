"""The time grids of FlowSE's and MeanFlowSE's samplers, on our clock."""

from __future__ import annotations

from mfdistill.flow.solvers import schedule


def _line(first: float, last: float, count: int) -> list[float]:
    return (
        [first + (last - first) * i / (count - 1) for i in range(count)] if count > 1 else [first]
    )


def meanflowse_times(steps: int, t_rev: float = 1.0, t_end: float = 0.03) -> list[float]:
    """MeanFlowSE's grid of ``steps`` equal steps from ``1 - t_rev`` to ``1 - t_end``; for
    ``solve(..., "euler")`` (its ``euler``) and ``sample`` (its ``euler_mf``). Its one step as
    recommended is ``t_end=0``; by default it stops early.

    Raises:
        UserError: no step, or times outside [0, 1] or in descending order.
    """
    return schedule([1 - t for t in _line(t_rev, t_end, max(steps, 0) + 1)])


def flowse_times(steps: int, t_rev: float = 1.0, t_eps: float = 0.03) -> list[float]:
    """FlowSE's grid: equal steps from ``1 - t_rev`` to ``1 - t_eps``, and a last one to 1;
    ``steps`` evaluations (errors as above).
    """
    times = [1 - t for t in _line(t_rev, t_eps, max(steps, 0))] if steps > 0 else []
    return schedule([*times, 1.0] if not times or times[-1] < 1 else times)
