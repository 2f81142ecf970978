"""Is the schedule that a search found better than those that cost no search, and by more than
chance?
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mfdistill.flow import schedule as make_schedule
from mfdistill.flow import sway
from mfdistill.flow.speech_grids import EPSS, f5_times
from mfdistill.metrics import mean_ci95
from mfdistill.plain import Plain
from mfdistill.search.o3s import Schedule, rounded


def baselines(nfe: int) -> dict[str, Schedule]:
    """Schedules of ``nfe`` steps by name: uniform, sway and, where F5-TTS has a pruned grid of so
    many steps, epss; equal ones once.
    """
    named = {"uniform": make_schedule(nfe), "sway": sway(nfe)}
    if nfe in EPSS:
        named["epss"] = f5_times(nfe)
    distinct: dict[Schedule, str] = {}
    for name, times in named.items():
        distinct.setdefault(rounded(times), name)
    return {name: schedule for schedule, name in distinct.items()}


def compare(
    schedules: Mapping[str, Schedule], values: Mapping[str, np.ndarray], direction: int
) -> list[Plain]:
    """A row per schedule: its mean, and the paired difference of the first schedule to it, in the
    metric's own sign.

    ``{"name", "schedule", "value", "value_ci95", "difference", "difference_ci95", "significant"}``:
    half widths of 95 % t intervals over utterances; None where there is none (a single utterance, a
    schedule without a value on some utterance, the first schedule's difference). Pairing is what
    makes the interval narrow: the same utterances are hard for every schedule.

    Args:
        values: (n,) of each schedule on the same utterances, larger is better.
        direction: -1 where they are the negated metric.
    """
    first = next(iter(schedules))
    rows = []
    for name, schedule in schedules.items():
        value, half = _interval(direction * values[name])
        row = {"name": name, "schedule": list(schedule), "value": value, "value_ci95": half}
        difference, half = (
            (None, None) if name == first else _interval(direction * (values[first] - values[name]))
        )
        significant = None if difference is None or half is None else abs(difference) > half
        rows.append(
            {**row, "difference": difference, "difference_ci95": half, "significant": significant}
        )
    return rows


def settled(rows: list[Plain], direction: int, resolution: float) -> str | None:
    """Why the difference of the first schedule to the best of the others needs no more utterances:
    it is above zero by more than chance, or known to within ``resolution`` and not below zero by
    more than chance. None where it does need more.
    """
    others = [row for row in rows[1:] if row["value"] is not None]
    if not others:
        return None
    best = max(others, key=lambda row: direction * row["value"])
    difference, half = best["difference"], best["difference_ci95"]
    if difference is None or half is None:
        return None
    if direction * difference - half > 0:
        return f"better than {best['name']} by more than chance"
    if half <= resolution and direction * difference + half >= 0:
        return f"lead over {best['name']} known to within {resolution:.3g}"
    return None


def alike(a: np.ndarray, b: np.ndarray, resolution: float) -> bool:
    """Whether the 95 % interval of the paired difference of two (n,) lies within ``resolution`` of
    zero; never with fewer than two values or a missing one.
    """
    difference, half = _interval(a - b)
    return difference is not None and half is not None and abs(difference) + half <= resolution


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and half width; None where a value is missing, or there are too few for an interval."""
    if not len(values) or not np.isfinite(values).all():
        return None, None
    mean, half, _ = mean_ci95(values)
    return mean, None if math.isnan(half) else half
