"""The time grids of F5-TTS's and CosyVoice's samplers."""

from __future__ import annotations

from mfdistill.flow.solvers import schedule, sway

# empirically pruned step sampling (F5-TTS): times in units of 1/32
EPSS: dict[int, tuple[int, ...]] = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}


def f5_times(
    steps: int = 32, sway_coefficient: float | None = -1.0, epss: bool = True
) -> list[float]:
    """F5-TTS's grid for ``solve(..., "euler")``: its pruned steps where ``EPSS`` has so many and
    ``epss`` is true, equal ones otherwise; then ``sway`` with ``sway_coefficient`` (None: none).

    Raises:
        UserError: no step, or a coefficient that makes the times descend.
    """
    times = [time / 32 for time in EPSS[steps]] if epss and steps in EPSS else schedule(steps)
    return times if sway_coefficient is None else sway(times, sway_coefficient)


def cosine_times(steps: int = 10) -> list[float]:
    """CosyVoice's grid, ``1 - cos(pi u / 2)`` of equal steps in u, for ``solve(..., "euler")``; the
    same as ``sway(steps, -1)``.

    Raises:
        UserError: no step.
    """
    return sway(steps, -1.0)
