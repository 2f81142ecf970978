"""The metrics by name; each is a whole row, in the file that computes it."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable

from mfdistill.errors import UserError
from mfdistill.metrics.asr import WER, WER_WHISPER
from mfdistill.metrics.base import Column, Metric, missing_package
from mfdistill.metrics.cepstra import MCD
from mfdistill.metrics.frechet import FD_FRAMES, FD_SPEAKER
from mfdistill.metrics.models import DNSMOS, PLCMOS, SPKSIM
from mfdistill.metrics.perceptual import ESTOI, PESQ
from mfdistill.metrics.signal import LSD, SISDR
from mfdistill.metrics.voicing import VOICING

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(PESQ, ESTOI, SISDR, LSD, SPKSIM, WER, DNSMOS, PLCMOS),
        *(MCD, VOICING, FD_SPEAKER, FD_FRAMES, WER_WHISPER),
    )
}


def named(names: Iterable[str]) -> list[Metric]:
    """The metrics called ``names``, in that order, each once, with their packages present.

    Raises:
        UserError: an unknown name (the nearest valid one is named) or a package that is not
            installed.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            raise UserError(
                f"metric '{name}': unknown; "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(METRICS)}")
            )
        metric = METRICS[name]
        for module in metric.modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(missing_package(name, module))
        found.append(metric)
    if not found:
        raise UserError(f"metrics: none given; choose from {', '.join(METRICS)}")
    return found


def present(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``names`` of known metrics in two parts: those whose packages are installed, and the rest."""
    rest = tuple(
        name
        for name in names
        if any(importlib.util.find_spec(module) is None for module in METRICS[name].modules)
    )
    return tuple(name for name in names if name not in rest), rest


def column_of(name: str) -> Column | None:
    """The column ``name`` of whichever metric has it; None for what is no metric's (NFE, say)."""
    return next(
        (one for metric in METRICS.values() for one in metric.columns if one.name == name), None
    )


def direction(column: str) -> int:
    """+1 where a higher ``column`` is better, -1 where a lower one is, 0 for a column of no
    metric.
    """
    found = column_of(column)
    return 0 if found is None else found.direction


def unit(column: str) -> str:
    """Unit of a metric's ``column``, '' where it has none."""
    found = column_of(column)
    return "" if found is None else found.unit
