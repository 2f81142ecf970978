"""What rows of an evaluation say, in words: the numbers at the top of a page, and what speaks
against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mfdistill.metrics import column_of, direction
from mfdistill.plain import Plain, Row
from mfdistill.report.tables import cell, digits_of, header

_FEW = 20  # utterances: below, intervals are wide and say little
_SETTLED_NFE = 2  # a teacher that is best with so few steps leaves nothing to distil


def system_label(row: Row) -> str:
    """``student, 2 steps placed by O3S``; the run's name in front where the row has one."""
    model, nfe, schedule = str(row.get("model")), row.get("nfe") or 0, row.get("schedule") or ""
    text = f"{row['run']}: {model}" if row.get("run") else model
    if model in ("teacher", "student"):
        text += f", {nfe} step" + ("s" if nfe != 1 else "")
        text += {"": "", "uniform": "", "o3s": " placed by O3S"}.get(schedule, f" ({schedule})")
    return text


def primary(rows: Sequence[Row]) -> str | None:
    """The first metric of the table."""
    columns = (key for row in rows for key in row if direction(key))
    return next((key for key in columns if any(_value(row, key) is not None for row in rows)), None)


def _value(row: Row | None, column: str) -> float | None:
    value = None if row is None else row.get(column)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _of(rows: Sequence[Row], model: str, column: str) -> list[Row]:
    return [row for row in rows if row.get("model") == model and _value(row, column) is not None]


def _best(rows: Sequence[Row], column: str) -> Row | None:
    return max(rows, key=lambda row: direction(column) * (_value(row, column) or 0), default=None)


def _fewest(rows: Sequence[Row]) -> Row | None:
    """Of equal numbers of steps the first, equal steps before searched ones."""
    return min(rows, key=lambda row: row.get("nfe") or 0, default=None)


def main_row(rows: Sequence[Row]) -> Row | None:
    """The row that a page is about: the student in its fewest steps, or what there is instead."""
    column = primary(rows)
    if column is None:
        return None
    for model in ("student", "teacher", "regression"):
        if found := _of(rows, model, column):
            return _fewest(found) if model == "student" else _best(found, column)
    return None


def utterance(row: Row) -> str:
    """Name of the utterance of a row of ``utterances.json``."""
    return str(row.get("name", row.get("utterance")))


def extremes(rows: Sequence[Row], details: Sequence[Row]) -> tuple[str, ...]:
    """Worst and best utterance of the system that the page is about; nothing where fewer than two
    were scored.
    """
    column, main = primary(rows), main_row(rows)
    if column is None or main is None:
        return ()
    label = system_label(main)
    own = [row for row in details if system_label(row) == label and _value(row, column) is not None]
    ranked = sorted(own, key=lambda row: direction(column) * row[column])
    return (utterance(ranked[0]), utterance(ranked[-1])) if len(ranked) > 1 else ()


def tiles(rows: Sequence[Row]) -> list[Plain]:
    """``{"label", "value", "note", "main"}``: the first metric of what is compared, and the
    speed.
    """
    column = primary(rows)
    if column is None:
        return []
    main = main_row(rows)
    students = _of(rows, "student", column)
    top = _best(students, column)
    chosen = [main, top if top is not main else None]
    chosen += [_best(_of(rows, "teacher", column), column)]
    chosen += [_fewest(_of(rows, name, column)) for name in ("regression", "unprocessed")]
    shown = [row for i, row in enumerate(chosen) if row is not None and row not in chosen[:i]]
    found = [
        {
            "label": system_label(row),
            "value": f"{row[column]:.{digits_of(column)}f}",
            "note": header(column) + _interval(row, column),
            "main": row is main,
        }
        for row in shown
    ]
    if main is not None and (rtf := _value(main, "rtf")):
        found.append(
            {
                "label": "Speed, " + system_label(main),
                "value": f"{1 / rtf:.0f}×" if rtf < 0.1 else f"{1 / rtf:.1f}×",
                "note": f"faster than the recording (real-time factor {rtf:.3g})",
                "main": False,
            }
        )
    return found


def _interval(row: Row, column: str) -> str:
    half = _value(row, f"{column}_ci95")
    return "" if half is None else f" ± {half:.{digits_of(column)}f}"


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the student keeps of its teacher's steps, per metric, where they gain something."""
    found = []
    for column in dict.fromkeys(key for row in rows for key in row if direction(key)):
        teachers, sign = _of(rows, "teacher", column), direction(column)
        one, best = _fewest(teachers), _best(teachers, column)
        metric = column_of(column)
        if one is None or best is None or metric is None or metric.minor:
            continue
        gain = sign * (best[column] - one[column])
        widths = (_value(one, f"{column}_ci95"), _value(best, f"{column}_ci95"))
        if best is one or gain <= max(width or 0.0 for width in widths):
            continue
        shares: dict[bool, list[str]] = {}
        for row in _of(rows, "student", column):
            share = 100 * sign * (row[column] - one[column]) / gain
            kinds = shares.setdefault(row.get("schedule") not in (None, "", "uniform"), [])
            kinds.append(f"{share:.0f} % in {_steps(row.get('nfe'))}")
        kept = [("with placed steps " if placed else "") + _listed(shares[placed]) for placed in sorted(shares)]  # fmt: skip
        if kept:
            amount = f"{abs(best[column] - one[column]):.{digits_of(column)}f}"
            found.append(
                f"{header(column)}: {_steps(best['nfe'])} of the teacher are worth {amount} over {_steps(one['nfe'])}; "
                f"the student keeps {'; '.join(kept)}."
            )
    return found


def _steps(nfe: Any) -> str:
    words = {1: "one step", 2: "two steps", 3: "three steps"}
    return words.get(nfe, f"{nfe} steps")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def cautions(rows: Sequence[Row]) -> list[str]:
    """What a reader of the numbers should know before believing them."""
    found, column = [], primary(rows)
    counts = {row["n"] for row in rows if isinstance(row.get("n"), int)}
    if counts and min(counts) < _FEW:
        found.append(
            f"Only {min(counts)} utterances were scored: intervals are wide, and small differences mean nothing."
        )
    if column is None:
        return found
    sign, name = direction(column), header(column)
    student, regression = (
        _best(_of(rows, model, column), column) for model in ("student", "regression")
    )
    if student and regression and sign * (regression[column] - student[column]) > 0:
        found.append(
            f"A regression network is better by {name} in one step: {cell(regression, column)} against {cell(student, column)}."
        )
    teachers = _of(rows, "teacher", column)
    best = _best(teachers, column)
    most = max((row.get("nfe") or 0 for row in teachers), default=0)
    if best and most > _SETTLED_NFE >= (best.get("nfe") or 0):
        found.append(
            f"By {name} the teacher is at its best in {_steps(best['nfe'])} already, so this metric says little about distillation."
        )
    if len(teachers) and not _of(rows, "regression", column):
        found.append(
            "No regression network of the same size was evaluated beside them; on some tasks it is better than any flow in one step."
        )
    for row in rows:
        total = row.get("n")
        missing = [
            f"{header(key.removesuffix('_n'))} on {total - value}"
            for key, value in row.items()
            if key.endswith("_n") and isinstance(value, int) and isinstance(total, int) and value < total
        ]  # fmt: skip
        if missing:
            found.append(
                f"{system_label(row)}: {', '.join(missing)} of {total} utterances could not be scored; means are over the rest."
            )
    return found
