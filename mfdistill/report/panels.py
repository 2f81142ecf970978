"""The panels of a page: one small figure each, as an SVG that flows on a narrow screen, with the
legend as data.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mfdistill.metrics import METRICS, direction
from mfdistill.plain import Plain, Row
from mfdistill.report.curves import curves, draw_curve
from mfdistill.report.figures import COLOURS, GREY, new_figure, tidy
from mfdistill.report.quality import draw_quality, is_number, series_labels
from mfdistill.report.schedules import draw_coordinate, draw_schedules, legend_order, schedule_lines
from mfdistill.report.tables import header

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 300  # of a curve: more cannot be told apart at this size
_SIDE = ("lr", "grad_norm", "audio_s_per_s", "skipped")  # curves behind a fold
_SYMBOLS = {"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "p": "⬟⬠"}  # filled, hollow


@dataclass(frozen=True)
class Image:
    """A drawing for a page."""

    uri: str
    """``data:`` address."""
    alt: str
    """The same in words."""


@dataclass
class Panels:
    """Drawings that share a legend."""

    images: list[Image] = field(default_factory=list)
    folded: list[Image] = field(default_factory=list)
    """Those that are shown on demand."""
    legend: list[Plain] = field(default_factory=list)
    """``{"label", "colour", "dashed", "symbol"}``; a symbol stands for its line"""


def svg(figure: Figure, alt: str) -> Image:
    """The figure as an image with its text left as text, the same bytes for the same figure."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mfdistill"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return Image("data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode(), alt)


def quality_panels(rows: Sequence[Row]) -> Panels:
    """A panel per metric against NFE with 95 % intervals (``quality_plot`` on its own); rows of
    several runs are told apart by their ``"run"``.
    """
    found = Panels()
    labels, handles = series_labels(rows), {}
    for column in (metric.primary for metric in METRICS.values()):
        own = [row for row in rows if is_number(row.get(column))]
        if not own:
            continue
        figure = new_figure(3.7, 2.7)
        panel = figure.subplots()
        draw_quality(panel, own, column, labels, handles)
        panel.set_title(header(column) + _arrow(column), fontsize=10)
        panel.set_xlabel("network evaluations (NFE)", fontsize=9)
        values = "; ".join(
            f"{row.get('run') or ''} {row['model']} {row.get('nfe') or ''}: {row[column]:.3g}".strip()
            for row in own
        )
        found.images.append(svg(figure, f"{header(column)} against network evaluations. {values}"))
    found.legend = [_entry(label, handle) for label, handle in handles.items()]
    return found


def _arrow(column: str) -> str:
    return {1: ", higher is better", -1: ", lower is better", 0: ""}[direction(column)]


def _entry(label: str, handle: Any) -> Plain:
    line = handle[0] if isinstance(handle, tuple) else handle  # an error bar is its line and more
    hollow = line.get_markerfacecolor() == "none"
    return {
        "symbol": _SYMBOLS.get(line.get_marker(), "●")[hollow] if "sweep" in label else "",
        "label": label,
        "colour": line.get_color(),
        "dashed": line.get_linestyle() not in ("-", "solid"),
    }


def curve_panels(logs: Mapping[str, Sequence[Row]]) -> Panels:
    """Loss (training and validation in one panel), validation metrics (numbers of evaluations in
    one panel), and folded the rest; a colour per run where there are several.

    Args:
        logs: rows of ``log.jsonl`` by the name of the run.
    """
    lines: dict[str, list[tuple[str, str, str, Any]]] = {}
    for run, rows in logs.items():
        for (kind, name), points in curves(rows).items():
            lines.setdefault(_panel_of(kind, name), []).append((run, kind, name, points))
    found, colours = Panels(), _colours(list(logs), lines)
    for title, entries in sorted(lines.items(), key=lambda item: (item[0] != "loss", item[0])):
        figure = new_figure(3.7, 2.7)
        panel = figure.subplots()
        for run, kind, name, points in entries:
            label = _line_label(run, kind, name, title, len(logs))
            colour = colours[run] if len(logs) > 1 else colours[label]
            draw_curve(panel, thinned(points), colour, kind == "valid", len(points) > 30)
        values = [value for *_, points in entries for _, value in points]
        if min(values) > 0 and max(values) > 8 * min(values) and title != "lr":
            panel.set_yscale("log")
        tidy(panel, "updates")
        panel.set_title(title, fontsize=10)
        panel.margins(x=0.02)
        panel.locator_params(axis="x", nbins=5)
        last = ", ".join(
            f"{_line_label(run, kind, name, title, len(logs))} ends at {points[-1][1]:.3g}"
            for run, kind, name, points in entries
        )
        side = title in _SIDE or title.startswith("train: ")
        (found.folded if side else found.images).append(
            svg(figure, f"{title} against updates; {last}")
        )
    found.legend = [
        {"label": label, "colour": colour, "dashed": False, "symbol": ""}
        for label, colour in colours.items()
    ]
    return found


def _panel_of(kind: str, name: str) -> str:
    if name == "loss" or (kind == "train" and name in _SIDE):
        return name
    stem, _, number = name.rpartition("_")
    known = stem if number.isdigit() else name
    return f"validation: {header(known)}" if kind == "valid" else f"train: {header(name)}"


def _line_label(run: str, kind: str, name: str, title: str, runs: int) -> str:
    number = name.rpartition("_")[2]
    own = f"{number} NFE" if title.startswith("validation") and number.isdigit() else kind
    own = {"train": "training", "valid": "validation"}.get(own, own)
    return own if runs == 1 else f"{run}, {own}"


def _colours(runs: list[str], lines: Mapping[str, list[Any]]) -> dict[str, str]:
    """By run, or, of a single run, by what tells its lines apart."""
    names = runs
    if len(runs) == 1:
        labels = [
            _line_label(run, kind, name, title, 1)
            for title, entries in lines.items()
            for run, kind, name, _ in entries
        ]
        names = sorted(dict.fromkeys(labels), key=lambda label: (label[0].isdigit(), label))
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_MOST_POINTS`` points: means of equal stretches."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = -(-len(points) // _MOST_POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part))
        for part in parts
    ]


def search_panels(search: Row) -> Panels:
    """The landscape of a search over each inner time, and its schedules (``o3s_plot`` on its
    own).
    """
    best = search.get("schedule") or search.get("best") or ()
    sign = search.get("direction") or 1
    seen = [e for e in search.get("evaluations", []) if e["score"] is not None]
    starts = list(dict.fromkeys(str(e["start"]) for e in seen))
    sweeps = sorted({int(e["sweep"]) for e in seen if e["coordinate"]})
    found, handles = Panels(), {}
    for i in range(1, len(best) - 1):
        own = [e for e in seen if e["coordinate"] == i]
        figure = new_figure(3.7, 2.7)
        panel = figure.subplots()
        draw_coordinate(panel, own, i, starts, sweeps, sign, handles)
        handles["chosen"] = panel.axvline(
            best[i], color=GREY, linewidth=1.2, linestyle="--", zorder=1
        )
        column = str(search.get("column") or search["metric"])
        tidy(panel, f"time of step {i}", header(column))
        panel.ticklabel_format(axis="y", useOffset=False)
        said = f"{len(own)} schedules tried; chosen {best[i]:.3f}"
        panel.set_title(f"step {i}: {best[i]:.3f}", fontsize=10)
        found.images.append(svg(figure, f"{header(column)} against the time of step {i}; {said}"))
    lines = schedule_lines(search, best)
    figure = new_figure(3.7, 0.32 * len(lines) + 0.9)
    draw_schedules(figure.subplots(), lines)
    said = "; ".join(f"{name}: {' '.join(f'{t:.3f}' for t in times)}" for name, times, _ in lines)
    found.images.append(svg(figure, f"Schedules. {said}"))
    ordered = sorted(handles.items(), key=lambda item: legend_order(item[0], starts))
    found.legend = [_entry(label, handle) for label, handle in ordered]
    return found
