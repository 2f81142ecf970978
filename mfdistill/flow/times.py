"""How training draws the times: t alone for a CFM teacher, intervals [t, r] for a student."""

from __future__ import annotations

import torch
from torch import Tensor

from mfdistill.flow.config import IntervalConfig, TimeConfig


def sample_time(config: TimeConfig, u: Tensor) -> Tensor:
    """t (b,) from uniforms on [0, 1) of shape (b,) or (b, 1 or more); the first column is used."""
    return _marginal(config, u if u.ndim == 1 else u[:, 0]).to(u.dtype)


def annealed_gamma(config: IntervalConfig, progress: float) -> float:
    """The exponent of the gap after the fraction ``progress`` (0 to 1) of the run."""
    return config.anneal_start + min(1.0, progress / max(1e-9, config.anneal_fraction)) * (
        config.anneal_end - config.anneal_start
    )


def sample_interval(
    config: IntervalConfig, u: Tensor, progress: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Intervals from uniforms.

    Args:
        u: (b, 3 or more) uniforms on [0, 1) (`draws.uniform`): two for the pair, one to choose
            anchors and whole intervals.
        progress: fraction of the run that is done, for the annealed gap.

    Returns: t, r, each (b,), ``0 <= t <= r <= 1``; r is t in every bit on anchors, ``r - t >=
    min_gap`` elsewhere.
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
    low, span = config.t_min, config.t_max - config.t_min
    t = (low + span * start).clamp(max=config.t_max - gap)
    r = torch.maximum(low + span * end, t + gap)
    full, equal = choice >= 1 - config.p_full, choice < config.p_equal
    t = torch.where(full, low, torch.where(equal, low + span * first, t)).to(u.dtype)
    r = torch.where(full, 1.0, r).clamp(max=1.0).to(u.dtype)
    return t, torch.where(equal & ~full, t, r)


def _marginal(config: TimeConfig, u: Tensor) -> Tensor:
    u = u.double()
    if config.kind == "uniform":
        return u
    # draws of float32 can be 0, where the normal quantile is infinite
    u = u.clamp(2.0**-26, 1 - 2.0**-26)
    return torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
