"""Curves of a training run from its ``log.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfdistill.errors import UserError
from mfdistill.report.figures import COLOURS, new_figure, save_figure, tidy
from mfdistill.report.tables import header

_NOT_CURVES = {"step", "kind", "time", "text", "epoch"}
_FIRST = ("loss", "lr", "grad_norm")
_WINDOW = 0.03  # of the run: the moving average that is drawn over the raw line

Points = list[tuple[float, float]]


def curves_plot(
    rows: Sequence[Mapping[str, Any]], path: str | Path, title: str | None = None
) -> Path:
    """PNG with a panel per logged quantity: validation first in one colour, then training in
    another, raw and smoothed.

    Args:
        rows: parsed lines of ``log.jsonl``: ``{"step", "kind": "train" | "valid" | "note", <name>:
            number or null, ...}``.

    Raises:
        UserError: nothing to draw, or the file cannot be written.
    """
    curves = _curves(rows)
    if not curves:
        raise UserError(
            f"{path}: the log has no numbers to draw yet; train for at least one logging interval"
        )
    width = min(3, len(curves))
    height = -(-len(curves) // width)
    figure = new_figure(3.6 * width, 2.5 * height + (0.3 if title else 0), title)
    panels = figure.subplots(height, width, squeeze=False).flatten()
    for panel, ((kind, name), points) in zip(panels, curves.items(), strict=False):
        steps, values = zip(*points, strict=True)
        colour = COLOURS[0 if kind == "train" else 1]
        dense = len(points) > 30
        noisy = dense and name != "lr"
        panel.plot(
            steps,
            values,
            color=colour,
            linewidth=0.8,
            alpha=0.35 if noisy else 1,
            marker="" if dense else ".",
            markersize=5,
        )
        if noisy:
            panel.plot(steps, _smooth(values), color=colour, linewidth=1.6)
        if min(values) > 0 and max(values) > 8 * min(values) and name != "lr":
            panel.set_yscale("log")
        tidy(panel, "step")
        panel.set_title(f"{kind}: {header(name)}", fontsize=9)
        panel.margins(x=0.02)
        panel.xaxis.get_major_locator().set_params(nbins=5)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    return save_figure(figure, path)


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Points]:
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


def _smooth(values: Sequence[float]) -> list[float]:
    half = max(1, round(_WINDOW * len(values)))
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
