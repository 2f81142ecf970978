"""Quality against the number of network evaluations: the picture of what distillation keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError
from mfdistill.metrics import METRICS, direction
from mfdistill.plain import Plain, Row
from mfdistill.report.figures import COLOURS, GREY, new_figure, save_figure, shared_legend, tidy
from mfdistill.report.tables import header

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# every other model is a single reference: a horizontal line
_LINES = ("teacher", "student", "finished")
_STYLES = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
_NUDGE = 0.02  # of a factor of ten: series at the same NFE would hide each other's intervals


def quality_plot(
    rows: Sequence[Row],
    path: str | Path,
    columns: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """PNG of metric against NFE with 95 % intervals; teacher, student and finished student as
    curves, every other model as a horizontal line.

    Args:
        rows: ``{"model", "nfe", "schedule", "task"?, "objective"?, <metric>, <metric>_ci95}``; a
            line of panels per task.
        columns: metric columns to draw, where a row of the task fills them; default the primary
            column of every metric.

    Raises:
        UserError: no row holds such a metric, or the file cannot be written.
    """
    wanted = [metric.primary for metric in METRICS.values()] if columns is None else list(columns)
    shown = [column for column in wanted if any(is_number(row.get(column)) for row in rows)]
    if not shown:
        raise UserError(f"{path}: no row has a value of {', '.join(wanted)}; evaluate first")
    tasks = list(dict.fromkeys(row.get("task") for row in rows))
    width = min(3, len(shown))
    per_task = -(-len(shown) // width)
    figure = new_figure(3.7 * width if width > 1 else 5.5, 2.8 * per_task * len(tasks) + 0.9, title)
    panels = figure.subplots(per_task * len(tasks), width, squeeze=False)
    labels = series_labels(rows)
    handles: Plain = {}
    for t, task in enumerate(tasks):
        own = [row for row in rows if row.get("task") == task]
        block = panels[t * per_task : (t + 1) * per_task].flatten()
        filled = [column for column in shown if any(is_number(row.get(column)) for row in own)]
        for k, (panel, column) in enumerate(zip(block, filled, strict=False)):
            draw_quality(panel, own, column, labels, handles)
            prefix = f"{task}: " if len(tasks) > 1 else ""
            arrow = {1: " ↑", -1: " ↓", 0: ""}[direction(column)]
            panel.set_title(prefix + header(column) + arrow, fontsize=9)
            panel.set_xlabel("NFE" if k >= len(filled) - width else "", fontsize=9)
        for panel in block[len(filled) :]:
            panel.set_visible(False)
    ordered = {
        label: handles[label] for label in dict.fromkeys(labels.values()) if label in handles
    }
    shared_legend(figure, ordered, columns=2 if width == 1 else 4)
    return save_figure(figure, path)


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _key(row: Row) -> tuple[Any, ...]:
    if row.get("model") in _LINES:
        return (
            row["model"],
            row.get("run"),
            row.get({"student": "objective", "finished": "start"}.get(row["model"], "")),
            row.get("schedule"),
        )
    return row.get("model"), row.get("run"), None, None


def series_labels(rows: Sequence[Row]) -> dict[tuple[Any, ...], str]:
    """Label of every series: run, objective and schedule are named only where they tell two series
    of one model apart.
    """
    keys = sorted(
        dict.fromkeys(map(_key, rows)),
        key=lambda key: _LINES.index(key[0]) if key[0] in _LINES else len(_LINES),
    )
    labels = {}
    for key in keys:
        same = [other for other in keys if other[0] == key[0]]
        parts = [
            str(key[i])
            for i in (1, 2, 3)
            if key[i] is not None and len({other[i] for other in same}) > 1
        ]
        labels[key] = " ".join([str(key[0]), *parts])
    return labels


def draw_quality(
    panel: Axes,
    rows: Sequence[Row],
    column: str,
    labels: Mapping[tuple[Any, ...], str],
    handles: Plain,
) -> None:
    """One metric against NFE into ``panel``; ``labels`` as ``series_labels`` makes them, and what
    was drawn is added to ``handles`` by label.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    evaluations: set[int] = set()
    curves = [key for key in labels if key[0] in _LINES]
    flat = [key for key in labels if key[0] not in _LINES]
    for key, label in labels.items():
        own = sorted(
            (row for row in rows if _key(row) == key and is_number(row.get(column))),
            key=lambda row: row.get("nfe") or 0,
        )
        if not own:
            continue
        spread = [row.get(f"{column}_ci95") for row in own]
        spread = [value if value is not None and is_number(value) else 0.0 for value in spread]
        if key in curves:
            k = curves.index(key)
            own_nfe = [max(1, int(row.get("nfe") or 1)) for row in own]
            evaluations |= set(own_nfe)
            xs = [nfe * 10 ** (_NUDGE * (k - (len(curves) - 1) / 2)) for nfe in own_nfe]
            handles[label] = panel.errorbar(
                xs, [row[column] for row in own], spread, color=COLOURS[k % len(COLOURS)], marker="o", markersize=4, linewidth=1.4,
                capsize=2.5, elinewidth=1.0, zorder=3,
            )  # fmt: skip
        else:
            k = flat.index(key)
            colour = GREY if label == "unprocessed" else COLOURS[-1 - k % len(COLOURS)]
            handles[label] = panel.axhline(
                own[0][column],
                color=colour,
                linewidth=1.2,
                linestyle=_STYLES[k % len(_STYLES)],
                zorder=2,
            )
            if spread[0]:
                panel.axhspan(
                    own[0][column] - spread[0],
                    own[0][column] + spread[0],
                    color=colour,
                    alpha=0.07,
                    linewidth=0,
                    zorder=1,
                )
    tidy(panel)
    panel.set_xscale("log")
    ticks = sorted(evaluations) or [1]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
