"""Figure and table of a schedule search (O3S)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.errors import UserError
from mfdistill.plain import Plain, Row
from mfdistill.report.figures import COLOURS, GREY, new_figure, save_figure, shared_legend, tidy
from mfdistill.report.tables import header, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_VERDICT = {None: "-", False: "no clear difference"}
_MARKERS = "os^Dvp"
_MAX_COLUMNS = 4


def comparison_table(search: Row) -> Table:
    """The schedule found beside those that cost no search, of a search's ``o3s.json``: mean and
    paired difference with 95 % intervals.
    """
    where = comparison_where(search["comparison"])
    return table(comparison_rows(search), title=f"Paired comparison {where}")


def comparison_rows(search: Row) -> list[Plain]:
    """The rows of that table."""
    column = search["column"]
    return [
        {
            "schedule": row["name"],
            column: _with_interval(row["value"], row["value_ci95"], ".4g"),
            "found - it": _with_interval(row["difference"], row["difference_ci95"], "+.3g"),
            "found is": _verdict(row, search["direction"]),
        }
        for row in search["comparison"]["rows"]
    ]


def comparison_where(part: Row) -> str:
    """What a comparison was made on."""
    seen = "not searched on" if part["unseen"] else "searched on, which flatters what was found"
    return f"on {part['n']} utterances {seen}"


def _with_interval(value: float | None, half: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if half is None else f" ±{half:.2g}")


def _verdict(row: Row, direction: int) -> str:
    if not row["significant"]:
        return _VERDICT[row["significant"]]
    return "better" if direction * row["difference"] > 0 else "worse"


def o3s_plot(search: Row, path: str | Path) -> Path:
    """PNG of a search: a panel per coordinate with the score against its position (colour: sweep,
    marker: start), then the schedules.

    Args:
        search: what ``o3s.json`` holds: ``{"metric", "schedule" (or "best"), "evaluations":
            [{"schedule", "score", "start", "sweep", "coordinate"}, ...]}``; optionally
            ``"column"``, ``"n"``, ``"starts": [{"name", "from", "schedule"}, ...]``,
            ``"comparison"`` and ``"direction"`` (scores are maximised: -1 turns them back into the
            metric). Coordinates count from 1 for the first interior time; 0 is a start itself. A
            null score is left out.

    Raises:
        UserError: no schedule in ``search``, or the file cannot be written.
    """
    best = search.get("schedule") or search.get("best")
    if not best:
        raise UserError(f"{path}: the search has no schedule to draw; run it to its end")
    sign = search.get("direction") or 1
    seen = [e for e in search.get("evaluations", []) if e["score"] is not None]
    interior = range(1, len(best) - 1)
    starts = list(dict.fromkeys(str(e["start"]) for e in seen))
    sweeps = sorted({int(e["sweep"]) for e in seen if e["coordinate"]})
    lines = schedule_lines(search, best)

    columns = max(1, min(_MAX_COLUMNS, len(interior)))
    rows = -(-len(interior) // columns)
    bottom = 0.3 * len(lines) + 0.4
    figure = new_figure(
        max(6.4, 3.2 * columns), 2.7 * rows + bottom + 1.0, _title(search, best, sign)
    )
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.7] * rows + [bottom])
    handles: Plain = {}
    first: Axes | None = None
    for position, i in enumerate(interior):
        panel = figure.add_subplot(grid[position // columns, position % columns], sharey=first)
        first = first or panel
        draw_coordinate(
            panel, [e for e in seen if e["coordinate"] == i], i, starts, sweeps, sign, handles
        )
        handles["chosen"] = panel.axvline(
            best[i], color=GREY, linewidth=1.2, linestyle="--", zorder=1
        )
        tidy(
            panel,
            f"position of $t_{{{i}}}$",
            header(search.get("column") or search["metric"]) if position % columns == 0 else "",
        )
        panel.ticklabel_format(axis="y", useOffset=False)
        if position % columns:
            panel.tick_params(labelleft=False)
    draw_schedules(figure.add_subplot(grid[rows, :]), lines)
    shared_legend(
        figure,
        dict(sorted(handles.items(), key=lambda item: legend_order(item[0], starts))),
        columns=3 if columns < 3 else 5,
    )
    return save_figure(figure, path)


def legend_order(label: str, starts: list[str]) -> tuple[int, int]:
    """Legend order: by start, then by sweep, the chosen schedule last."""
    name, _, sweep = label.rpartition("sweep ")
    position = starts.index(name.removesuffix(", ")) if name.removesuffix(", ") in starts else 0
    return (position, int(sweep)) if label != "chosen" else (len(starts), 0)


def _title(search: Row, best: Sequence[float], sign: int) -> str:
    title = f"O3S at {len(best) - 1} NFE: {header(search.get('column') or search['metric'])}"
    scores = [e["score"] for e in search.get("evaluations", []) if e["score"] is not None]
    if scores:
        title += f" {sign * max(scores):.4g}"
    title += f" on {search['n']} utterances" if search.get("n") else ""
    part = search.get("comparison") or {"rows": []}
    rows = [row for row in part["rows"] if row["difference"] is not None]
    if rows:
        differences = (
            f"found - {row['name']} {_with_interval(row['difference'], row['difference_ci95'], '+.3g')}"
            for row in rows
        )
        title += f"\n{', '.join(differences)}\n({comparison_where(part)})"
    return title


def draw_coordinate(
    panel: Axes,
    seen: Sequence[Row],
    i: int,
    starts: list[str],
    sweeps: list[int],
    sign: int,
    handles: Plain,
) -> None:
    """Scores against the ``i``-th time into ``panel``: colour is the sweep, marker the start."""
    drawn: set[tuple[float, float]] = set()
    for s, start in enumerate(starts):
        for sweep in sweeps:
            points = sorted(
                {
                    (e["schedule"][i], sign * e["score"])
                    for e in seen
                    if e["start"] == start and e["sweep"] == sweep
                }
            )
            # the last sweep of a search often repeats the one before it
            if not drawn.issuperset(points):
                drawn.update(points)
                colour, marker = (
                    COLOURS[sweeps.index(sweep) % len(COLOURS)],
                    _MARKERS[s % len(_MARKERS)],
                )
                xs, ys = zip(*points, strict=True)
                face = colour if s == 0 else "none"
                style: Plain = {
                    "linewidth": 0.8,
                    "markersize": 4 + 1.5 * s,
                    "markerfacecolor": face,
                    "zorder": 2 + s,
                }
                (line,) = panel.plot(xs, ys, color=colour, marker=marker, **style)
                handles.setdefault(
                    f"{start}, sweep {sweep}" if len(starts) > 1 else f"sweep {sweep}", line
                )


def schedule_lines(search: Row, best: Sequence[float]) -> list[tuple[str, Sequence[float], bool]]:
    """(label, times, chosen) from the first start down to the chosen schedule."""
    lines: list[tuple[str, Sequence[float], bool]] = []
    starts = search.get("starts")
    for start in starts if isinstance(starts, list) else []:
        if isinstance(start, Mapping):
            name = start.get("name", "start")
            lines += [
                (f"{name}: {word}", start[key], False)
                for word, key in (("start", "from"), ("end", "schedule"))
                if start.get(key)
            ]
    return [*lines, ("chosen", best, True)]


def draw_schedules(panel: Axes, lines: Sequence[tuple[str, Sequence[float], bool]]) -> None:
    """Every schedule as points on a line of its own; ``lines`` as ``schedule_lines`` makes them."""
    for y, (_, times, chosen) in enumerate(lines):
        colour = COLOURS[1] if chosen else GREY
        panel.plot(
            times,
            [y] * len(times),
            color=colour,
            marker="o",
            markersize=6 if chosen else 4,
            linewidth=2.0 if chosen else 1.0,
        )
        if chosen:
            for t in times[1:-1]:
                panel.annotate(
                    f"{t:.3f}",
                    (t, y),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=colour,
                )
    tidy(panel, "t (0: prior, 1: data)")
    panel.set_yticks(range(len(lines)), [label for label, _, _ in lines])
    panel.set_ylim(len(lines) - 0.6, -0.6)
    panel.set_xlim(-0.02, 1.02)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
