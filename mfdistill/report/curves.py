"""Curves of a training run from its ``log.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.errors import UserError
from mfdistill.plain import Row
from mfdistill.report.figures import COLOURS, new_figure, save_figure, tidy
from mfdistill.report.tables import header

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOT_CURVES = {"step", "kind", "time", "text", "epoch"}
_FIRST = ("loss", "lr", "grad_norm")
_WINDOW = 0.03  # of the run: the moving average that is drawn over the raw line

Points = list[tuple[float, float]]


def curves_plot(rows: Sequence[Row], path: str | Path, title: str | None = None) -> Path:
    """PNG with a panel per logged quantity: validation first in one colour, then training in
    another, raw and smoothed.

    Args:
        rows: parsed lines of ``log.jsonl``: ``{"step", "kind": "train" | "valid" | "note", <name>:
            number or null, ...}``.

    Raises:
        UserError: nothing to draw, or the file cannot be written.
    """
    found = curves(rows)
    if not found:
        raise UserError(
            f"{path}: the log has no numbers to draw yet; train for at least one logging interval"
        )
    width = min(3, len(found))
    height = -(-len(found) // width)
    figure = new_figure(3.6 * width, 2.5 * height + (0.3 if title else 0), title)
    panels = figure.subplots(height, width, squeeze=False).flatten()
    for panel, ((kind, name), points) in zip(panels, found.items(), strict=False):
        values = [value for _, value in points]
        colour = COLOURS[0 if kind == "train" else 1]
        dense = len(points) > 30
        draw_curve(panel, points, colour, not dense, dense and name != "lr")
        if min(values) > 0 and max(values) > 8 * min(values) and name != "lr":
            panel.set_yscale("log")
        tidy(panel, "step")
        panel.set_title(f"{kind}: {header(name)}", fontsize=9)
        panel.margins(x=0.02)
        panel.xaxis.get_major_locator().set_params(nbins=5)
    for panel in panels[len(found) :]:
        panel.set_visible(False)
    return save_figure(figure, path)


def draw_curve(panel: Axes, points: Points, colour: str, marked: bool, smoothed: bool) -> None:
    """One line into ``panel``; a noisy one pale with its moving average over it."""
    steps, values = zip(*points, strict=True)
    panel.plot(
        steps,
        values,
        color=colour,
        linewidth=0.8,
        alpha=0.35 if smoothed else 1,
        marker="." if marked else "",
        markersize=5,
    )
    if smoothed:
        panel.plot(steps, smooth(values), color=colour, linewidth=1.6)


def curves(rows: Sequence[Row]) -> dict[tuple[str, str], Points]:
    """Points of every logged quantity by (kind, name), validation first."""
    found: dict[tuple[str, str], Points] = {}
    for row in rows:
        kind = str(row.get("kind", "train"))
        for name, value in row.items():
            number = (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
            )
            if name not in _NOT_CURVES and number and isinstance(row.get("step"), (int, float)):
                found.setdefault((kind, name), []).append((row["step"], value))

    def rank(key: tuple[str, str]) -> tuple[bool, int]:
        return key[0] != "valid", _FIRST.index(key[1]) if key[1] in _FIRST else len(_FIRST)

    return {key: sorted(found[key]) for key in sorted(found, key=rank)}


def smooth(values: Sequence[float]) -> list[float]:
    """Moving average over a small part of the run."""
    half = max(1, round(_WINDOW * len(values)))
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
