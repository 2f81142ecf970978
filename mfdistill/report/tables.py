"""Rows of results as a terminal table, Markdown, CSV and JSON.

A row is a flat dictionary; ``<column>_ci95`` beside ``<column>`` is the half width of its interval,
``<column>_n`` its count.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.metrics import column_of, direction
from mfdistill.plain import Row

if TYPE_CHECKING:
    from rich.table import Table

Columns = Sequence[str] | Mapping[str, str]

# columns that are no metric's; those say their label and digits themselves
HEADERS = {"nfe": "NFE", "rtf": "RTF", "n": "files"}
DIGITS = {"rtf": 4}
_LEADING = ("task", "model", "objective", "nfe", "schedule")
_HIDDEN = ("_ci95", "_n")


def header(column: str) -> str:
    """How ``column`` is called in tables and figures, with its unit where that is dB or cents."""
    metric = column_of(column)
    if metric is None:
        return HEADERS.get(column, column)
    return f"{metric.label} ({metric.unit})" if metric.unit in ("dB", "cents") else metric.label


def digits_of(column: str) -> int | None:
    """Digits behind the point of a metric's column or another one that has a fixed number."""
    metric = column_of(column)
    return DIGITS.get(column) if metric is None else metric.digits


def shown_columns(rows: Sequence[Row]) -> list[str]:
    """Every column that some row fills, what names a row first, without the intervals and counts
    that belong to another one.
    """
    filled = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    keys = dict.fromkeys([*(key for key in _LEADING if key in filled), *filled])
    return [
        key
        for key in keys
        if not any(key.endswith(end) and key.removesuffix(end) in keys for end in _HIDDEN)
    ]


def cell(row: Row, column: str) -> str:
    """Text of one value: ``3.21 ±0.05``; ``-`` for a value that is missing or not a number; fewer
    files than the row's are named.
    """
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if column == "params" and isinstance(value, (int, float)):
        return f"{value / 1e6:.2f} M"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(f"{item:.3g}" if isinstance(item, float) else str(item) for item in value)
    if not isinstance(value, float) and not (direction(column) and isinstance(value, int)):
        return str(value)
    digits = digits_of(column)
    text = f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
    half_width = row.get(f"{column}_ci95")
    if isinstance(half_width, (int, float)) and math.isfinite(half_width):
        text += f" ±{half_width:.{2 if digits is None else digits}f}"
    count, total = row.get(f"{column}_n"), row.get("n")
    if isinstance(count, int) and isinstance(total, int) and count < total:
        text += f" n={count}"
    return text


def best_rows(rows: Sequence[Row], column: str) -> set[int]:
    """Indices of the rows whose ``column`` is best by its metric's direction; none for other
    columns or where all are equal.
    """
    sign = direction(column)
    numbers = {
        i: row[column] for i, row in enumerate(rows) if isinstance(row.get(column), (int, float))
    }
    values = {i: sign * value for i, value in numbers.items() if math.isfinite(value)}
    if not sign or len(set(values.values())) < 2:
        return set()
    top = max(values.values())
    return {i for i, value in values.items() if value == top}


def _named(rows: Sequence[Row], columns: Columns | None) -> dict[str, str]:
    if isinstance(columns, Mapping):
        return dict(columns)
    return {
        column: header(column)
        for column in (columns if columns is not None else shown_columns(rows))
    }


def table(rows: Sequence[Row], columns: Columns | None = None, title: str | None = None) -> Table:
    """A rich table: ``columns`` are keys, or keys with headers (default: all that are filled); the
    best value of a metric is bold.
    """
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, title_justify="left")
    names = _named(rows, columns)
    best = {column: best_rows(rows, column) for column in names}
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    for column, name in names.items():
        numeric = any(isinstance(row.get(column), (int, float)) for row in rows)
        result.add_column(
            name + arrows[direction(column)],
            justify="right" if numeric else "left",
            no_wrap=not numeric,
        )
    for i, row in enumerate(rows):
        result.add_row(
            *(
                Text(cell(row, column), style="bold" if i in best[column] else "")
                for column in names
            )
        )
    return result


def markdown_table(rows: Sequence[Row], columns: Columns | None = None) -> str:
    """The same as a Markdown table, for READMEs and model cards."""
    names = _named(rows, columns)
    best = {column: best_rows(rows, column) for column in names}
    lines = ["| " + " | ".join(names.values()) + " |"]
    lines.append(
        "|"
        + "|".join(
            "---:" if any(isinstance(row.get(c), (int, float)) for row in rows) else "---"
            for c in names
        )
        + "|"
    )
    for i, row in enumerate(rows):
        cells = [cell(row, column).replace("|", "\\|") for column in names]
        lines.append(
            "| "
            + " | ".join(
                f"**{c}**" if i in best[column] else c
                for c, column in zip(cells, names, strict=True)
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def write_table(path_stem: str | Path, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write ``<path_stem>.csv`` and ``<path_stem>.json`` (each whole or not at all) and return
    their paths.

    A value that is not finite is null in JSON and empty in CSV; a list in a CSV cell is separated
    by spaces.

    Raises:
        UserError: the folder cannot be written.
    """
    from mfdistill.checkpoint import write_json, write_text

    stem = Path(path_stem)
    files = stem.with_name(stem.name + ".csv"), stem.with_name(stem.name + ".json")
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in plain for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(
        {
            key: " ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in row.items()
        }
        for row in plain
    )
    write_text(files[0], text.getvalue())
    write_json(files[1], plain)
    return files


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return (
        {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
    )
