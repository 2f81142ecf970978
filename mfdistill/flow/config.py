"""Settings of the flow, without torch: distributions of times and names of solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mfdistill.errors import UserError

Solver = Literal["euler", "midpoint", "heun", "rk4"]


@dataclass(frozen=True)
class TimeConfig:
    """Times of a CFM teacher: uniform on (0, 1), or ``sigmoid(N(mean, std^2))``; a negative mean
    leans to the prior (t = 0).
    """

    kind: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit-normal"):
            raise UserError(f"times kind: {self.kind!r} is not one of 'uniform', 'logit-normal'")
        if not self.std > 0:
            raise UserError(f"times std: {self.std} must be positive")


@dataclass(frozen=True)
class IntervalConfig:
    """How a student's intervals ``0 <= t <= r <= 1`` are drawn."""

    kind: Literal["uniform", "logit-normal", "start-gap"] = "uniform"
    """"uniform": two U(0, 1), sorted. "logit-normal": two ``sigmoid(N(mean, std^2))``, sorted
    (MeanFlow, arXiv 2505.13447; its -0.4 in a clock with data at 0 is +0.4 here). "start-gap": ``t
    ~ U(0, 1)``, ``r ~ U(t, 1)`` (MeanFlowSE).
    """
    mean: float = -0.4
    """Of the logit-normal."""
    std: float = 1.0
    """Of the logit-normal."""
    p_equal: float = 0.0
    """Fraction of anchors, r = t exactly; their t is the first draw, unsorted, so that anchors
    cover time as CFM training does.
    """
    p_full: float = 0.0
    """Fraction of whole intervals (0, 1)."""
    anneal_start: float = 1.0
    """Annealed gap of MeanFlowSE, small to large: the position of r between t and the end is raised
    to gamma, ``r = t + U^gamma (1 - t)``; this is gamma at the start (MeanFlowSE: 8); 1 and 1 is
    off.
    """
    anneal_end: float = 1.0
    """gamma after ``anneal_fraction`` of the run, reached linearly."""
    anneal_fraction: float = 0.7
    """Fraction of the run over which gamma moves."""
    min_gap: float = 1e-3
    """Smallest r - t of an interval that is no anchor."""
    t_max: float = 1.0
    """Intervals are drawn in [t_min, t_max] (MeanFlowSE: 0.97); those of p_full end at 1 all the
    same.
    """
    t_min: float = 0.0
    """Earliest time (MeanFlowSE: ``1 - T_rev``)."""

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit-normal", "start-gap"):
            raise UserError(
                f"interval kind: {self.kind!r} is not one of 'uniform', 'logit-normal', 'start-gap'"
            )
        if not (self.p_equal >= 0 and self.p_full >= 0 and self.p_equal + self.p_full <= 1):
            raise UserError(
                f"interval p_equal {self.p_equal}, p_full {self.p_full}: fractions, 0 or more, whose sum is at most 1"
            )
        if not (0 <= self.t_min < self.t_max <= 1 and 0 < self.min_gap < self.t_max - self.t_min):
            raise UserError(
                f"interval min_gap {self.min_gap}, t_min {self.t_min}, t_max {self.t_max}: "
                "needed 0 <= t_min < t_max <= 1 and 0 < min_gap < t_max - t_min"
            )
        for name in ("std", "anneal_start", "anneal_end"):
            if not getattr(self, name) > 0:
                raise UserError(f"interval {name}: {getattr(self, name)} must be positive")
        if self.anneal_fraction < 0:
            raise UserError(f"interval anneal_fraction: {self.anneal_fraction} must be 0 or more")
