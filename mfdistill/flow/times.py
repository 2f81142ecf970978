"""How training draws the times: t alone for a CFM teacher, intervals [t, r] for a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mfdistill.errors import UserError


@dataclass(frozen=True)
class TimeConfig:
    """Times of a CFM teacher: uniform on (0, 1), or ``sigmoid(N(mean, std^2))``; a negative mean leans to the prior (t = 0)."""

    kind: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit-normal"):
            raise UserError(f"times kind: {self.kind!r} is not one of 'uniform', 'logit-normal'")
        if not self.std > 0:
            raise UserError(f"times std: {self.std} must be positive")


def sample_time(config: TimeConfig, u: Tensor) -> Tensor:
    """t (b,) from uniforms on [0, 1) of shape (b,) or (b, 1 or more); the first column is used."""
    return _marginal(config, u if u.ndim == 1 else u[:, 0]).to(u.dtype)


@dataclass(frozen=True)
class IntervalConfig:
    """How a student's intervals ``0 <= t <= r <= 1`` are drawn.

    Attributes:
        kind: "uniform": two U(0, 1), sorted. "logit-normal": two ``sigmoid(N(mean, std^2))``, sorted (MeanFlow, arXiv 2505.13447; its
            -0.4 in a clock with data at 0 is +0.4 here). "start-gap": ``t ~ U(0, 1)``, ``r ~ U(t, 1)`` (MeanFlowSE).
        mean, std: of the logit-normal.
        p_equal: fraction of anchors, r = t exactly; their t is the first draw, unsorted, so that anchors cover time as CFM training does.
        p_full: fraction of whole intervals (0, 1).
        anneal_start, anneal_end, anneal_fraction: the annealed gap of MeanFlowSE, small to large: the position of r between t and the
            end is raised to gamma, ``r = t + U^gamma (1 - t)``; gamma goes linearly from start to end over that fraction of the run and
            stays there. MeanFlowSE's recipe is 8, 1, 0.7; 1, 1 is off.
        min_gap: smallest r - t of an interval that is no anchor.
        t_max: intervals are drawn in [0, t_max] (MeanFlowSE: 0.97); p_full's are (0, 1) all the same.
    """

    kind: Literal["uniform", "logit-normal", "start-gap"] = "uniform"
    mean: float = -0.4
    std: float = 1.0
    p_equal: float = 0.0
    p_full: float = 0.0
    anneal_start: float = 1.0
    anneal_end: float = 1.0
    anneal_fraction: float = 0.7
    min_gap: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit-normal", "start-gap"):
            raise UserError(f"interval kind: {self.kind!r} is not one of 'uniform', 'logit-normal', 'start-gap'")
        if not (self.p_equal >= 0 and self.p_full >= 0 and self.p_equal + self.p_full <= 1):
            raise UserError(f"interval p_equal {self.p_equal}, p_full {self.p_full}: fractions, 0 or more, whose sum is at most 1")
        if not (0 < self.t_max <= 1 and 0 < self.min_gap < self.t_max):
            raise UserError(f"interval min_gap {self.min_gap}, t_max {self.t_max}: needed 0 < min_gap < t_max <= 1")
        for name in ("std", "anneal_start", "anneal_end", "anneal_fraction"):
            if not getattr(self, name) > 0:
                raise UserError(f"interval {name}: {getattr(self, name)} must be positive")


def annealed_gamma(config: IntervalConfig, progress: float) -> float:
    """The exponent of the gap after the fraction ``progress`` (0 to 1) of the run."""
    return config.anneal_start + min(1.0, progress / config.anneal_fraction) * (config.anneal_end - config.anneal_start)


def sample_interval(config: IntervalConfig, u: Tensor, progress: float = 1.0) -> tuple[Tensor, Tensor]:
    """Intervals from uniforms.

    Args:
        u: (b, 3 or more) uniforms on [0, 1) (`draws.uniform`): two for the pair, one to choose anchors and whole intervals.
        progress: fraction of the run that is done, for the annealed gap.

    Returns: t, r, each (b,), ``0 <= t <= r <= 1``; r is t in every bit on anchors, ``r - t >= min_gap`` elsewhere.
    """
    if u.ndim != 2 or u.shape[1] < 3:
        raise ValueError(f"u must be (b, 3 or more), got {tuple(u.shape)}")
    first, choice = u[:, 0], u[:, 2].double()
    if config.kind == "start-gap":
        first = start = first.double()
        position = u[:, 1].double()
    else:
        marginal = TimeConfig(config.kind, config.mean, config.std)
        first, second = _marginal(marginal, first), _marginal(marginal, u[:, 1])
        start = torch.minimum(first, second)
        position = (first - second).abs() / (1 - start).clamp(min=1e-12)
    end = start + position ** annealed_gamma(config, progress) * (1 - start)

    gap = config.min_gap + 4 * torch.finfo(u.dtype).eps  # holds after rounding to the dtype of u
    t = (config.t_max * start).clamp(max=config.t_max - gap)
    r = torch.maximum(config.t_max * end, t + gap)
    full, equal = choice >= 1 - config.p_full, choice < config.p_equal
    t = torch.where(full, 0.0, torch.where(equal, config.t_max * first, t)).to(u.dtype)
    r = torch.where(full, 1.0, r).clamp(max=1.0).to(u.dtype)
    return t, torch.where(equal & ~full, t, r)


def _marginal(config: TimeConfig, u: Tensor) -> Tensor:
    u = u.double()
    if config.kind == "uniform":
        return u
    u = u.clamp(2.0**-26, 1 - 2.0**-26)  # draws of float32 can be 0, where the normal quantile is infinite
    return torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
