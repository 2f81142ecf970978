"""The page of a run: one HTML file with everything inside it, from plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfdistill.checkpoint import write_text
from mfdistill.metrics import direction
from mfdistill.plain import Plain, Row
from mfdistill.report.story import utterance
from mfdistill.report.tables import best_rows, cell, digits_of, header, shown_columns

_SECTIONS = {
    "summary": "In short",
    "warnings": "Care",
    "quality": "Quality",
    "listening": "Listen",
    "utterances": "Utterances",
    "searches": "Steps",
    "curves": "Training",
    "cost": "Speed",
    "run": "What was run",
    "next": "Go on",
}
_IDS = {"searches": "search"}
_HIDDEN = {"pesq_mode", "sample_rate", "split", "task", "checkpoint", "times", "network"}


def render(page: Row) -> str:
    """HTML of a page; every text is escaped.

    Args:
        page: ``{"title", "subtitle", "footer", "facts": {"names", "rows"}}`` and, where there is
            something to show, ``"tiles"``, ``"sentences"``, ``"warnings"``, ``"quality"``,
            ``"listening"``, ``"utterances"``, ``"searches"``, ``"curves"``, ``"cost"`` and
            ``"next"`` as ``page.html`` reads them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mfdistill", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    keys = ("tiles", "sentences", "warnings", "quality", "listening", "utterances")
    whole = {key: None for key in (*keys, "searches", "curves", "cost", "next")} | dict(page)
    there = {
        **{key: whole.get(key) for key in _SECTIONS},
        "summary": whole["tiles"] or whole["sentences"],
        "run": True,
    }
    whole["sections"] = [
        (_IDS.get(key, key), name) for key, name in _SECTIONS.items() if there[key]
    ]
    if whole["utterances"]:
        whole["utterances"] = _script(whole["utterances"])
    return environment.get_template("page.html").render(whole)


def write_page(path: Path, page: Row) -> Path:
    """Write ``render(page)`` to ``path``.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, render(page))
    return path


def _script(value: Any) -> Any:
    """JSON that is safe inside a script element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def grid(rows: Sequence[Row], columns: Sequence[str] | None = None) -> Plain:
    """``{"columns": [{"name", "number"}], "rows": [[{"text", "best"}]]}`` of rows of results, the
    best value of a metric marked.
    """
    shown = list(columns) if columns is not None else shown_columns(rows)
    shown = [column for column in shown if columns is not None or column not in _HIDDEN]
    best = {column: best_rows(rows, column) for column in shown}
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    return {
        "columns": [
            {
                "name": header(column) + arrows[direction(column)],
                "number": any(isinstance(row.get(column), (int, float)) for row in rows),
            }
            for column in shown
        ],
        "rows": [
            [{"text": cell(row, column), "best": i in best[column]} for column in shown]
            for i, row in enumerate(rows)
        ],
    }


def utterance_scores(
    details: Sequence[Row],
    label: Any,
    main: str,
    reference: str | None,
    heard: Sequence[str] = (),
) -> Plain | None:
    """What the sortable table is made of: ``{"names", "systems", "columns", "values": [system]
    [utterance][column], "heard", "main", "reference"}``; None without scores.

    Args:
        details: rows of ``utterances.json``. label: from such a row to the name of its system.
        heard: utterances that there are players of, in their order.
    """
    columns = [
        column
        for column in dict.fromkeys(key for row in details for key in row)
        if direction(column)
    ]
    systems = list(dict.fromkeys(label(row) for row in details))
    names = list(dict.fromkeys(utterance(row) for row in details))
    if not (columns and names):
        return None
    places = {name: i for i, name in enumerate(names)}
    values: list[list[list[float | None]]] = [
        [[None] * len(columns) for _ in names] for _ in systems
    ]
    for row in details:
        own = values[systems.index(label(row))][places[utterance(row)]]
        for k, column in enumerate(columns):
            value = row.get(column)
            own[k] = round(value, 5) if isinstance(value, (int, float)) else None
    # a table of the nothing that went in would be no news
    chosen = systems.index(main) if main in systems else len(systems) - 1
    return {
        "names": names,
        "systems": systems,
        "columns": [
            {"name": header(c), "direction": direction(c), "digits": digits_of(c) or 2}
            for c in columns
        ],
        "values": values,
        "heard": [list(heard).index(name) if name in heard else -1 for name in names],
        "main": chosen,
        "reference": systems.index(reference) if reference in systems else -1,
    }
