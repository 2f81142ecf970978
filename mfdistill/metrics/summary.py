"""Rows -> means, values of whole sets, and paired differences, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mfdistill.errors import UserError
from mfdistill.metrics.base import Metric, Wave
from mfdistill.metrics.catalog import METRICS
from mfdistill.metrics.score import EVIDENCE
from mfdistill.metrics.student_t import t_quantile
from mfdistill.plain import Plain, Row

REPLICATES = 200
"""Bootstrap samples behind the interval of a set metric."""
_NORMAL = 1.959964  # half width of a 95 % interval in standard deviations


def summarise(rows: Sequence[Row]) -> Plain:
    """``{"n": utterances, column: mean, column_ci95: half width, column_n: values that were not
    nan, ...}`` over every numeric column, and the same of set metrics.

    The interval is Student's t over utterances; nan with fewer than two values. That of a set
    metric is 1.96 standard deviations of its value over utterances drawn anew with replacement.
    """
    summary: Plain = {"n": len(rows)}
    for column in _columns(rows):
        values = np.array([row.get(column, math.nan) for row in rows], dtype=np.float64)
        summary |= _three(column, mean_ci95(values))
    for metric in _set_metrics(rows):
        evidence = [found for row in rows if (found := row[EVIDENCE].get(metric.name)) is not None]
        of = _over(metric)
        summary |= _bootstrapped(
            metric, lambda indices, of=of, known=evidence: of([known[i] for i in indices]), evidence
        )
    return summary


def plain(row: Row) -> Plain:
    """A row without the evidence of set metrics: what files hold."""
    return {key: value for key, value in row.items() if key != EVIDENCE}


def paired_difference(
    rows: Sequence[Row], others: Sequence[Row], column: str
) -> tuple[float, float, int]:
    """Mean of ``rows - others`` over the utterances of equal name, its 95 % half width, and how
    many there were.

    Far narrower than the difference of two means: the same utterances are hard for every system.

    Raises:
        UserError: no utterance is in both.
    """
    wanted = {row["name"]: row[column] for row in others if column in row}
    differences = [
        row[column] - wanted[row["name"]] for row in rows if column in row and row["name"] in wanted
    ]
    if not differences:
        raise UserError(
            f"{column}: no utterance is in both sets of rows; score the same files with the same metrics"
        )
    return mean_ci95(differences)


def differences(rows: Sequence[Row], others: Sequence[Row]) -> Plain:
    """``rows - others`` in the form of `summarise`, of every metric: paired by utterance; a set
    metric's interval is over the same utterances drawn anew for both.

    Raises:
        UserError: no utterance is in both.
    """
    known = {metric_column.name for metric in METRICS.values() for metric_column in metric.columns}
    result: Plain = {"n": len(rows)}
    for column in (one for one in _columns(rows) if one in known and one in set(_columns(others))):
        result |= _three(column, paired_difference(rows, others, column))
    for metric in _set_metrics(rows):
        wanted = {row["name"]: row.get(EVIDENCE, {}).get(metric.name) for row in others}
        pairs = [
            (row[EVIDENCE][metric.name], wanted[row["name"]])
            for row in rows
            if row[EVIDENCE].get(metric.name) is not None and wanted.get(row["name"]) is not None
        ]
        result |= _bootstrapped(metric, _difference(metric, pairs), pairs)
    return result


def _difference(
    metric: Metric, pairs: Sequence[tuple[Any, Any]]
) -> Callable[[Sequence[int]], dict[str, float]]:
    of = _over(metric)

    def value(indices: Sequence[int]) -> dict[str, float]:
        one, other = (of([pairs[i][side] for i in indices]) for side in (0, 1))
        return {name: one[name] - other[name] for name in one}

    return value


def _bootstrapped(
    metric: Metric, value: Callable[[Sequence[int]], dict[str, float]], known: Sequence[Any]
) -> Plain:
    """Columns, half widths and counts of a function of utterance numbers."""
    count = len(known)
    if not count:
        return {k: v for name in metric.names for k, v in _three(name, _NONE).items()}
    found = value(range(count))
    rng = np.random.default_rng(0)
    drawn = (
        [value(rng.integers(count, size=count).tolist()) for _ in range(REPLICATES)]
        if count > 1
        else []
    )
    result: Plain = {}
    for name in metric.names:
        values = [one[name] for one in drawn if not math.isnan(one[name])]
        half = _NORMAL * float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        result |= _three(name, (found[name], half, count))
    return result


_NONE = (math.nan, math.nan, 0)


def _three(column: str, values: tuple[float, float, int]) -> Plain:
    return {column: values[0], f"{column}_ci95": values[1], f"{column}_n": values[2]}


def _columns(rows: Sequence[Row]) -> list[str]:
    """Numeric columns, in the order in which rows have them."""
    return list(
        dict.fromkeys(
            key
            for row in rows
            for key, value in row.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        )
    )


def _set_metrics(rows: Sequence[Row]) -> list[Metric]:
    return [
        METRICS[name] for name in dict.fromkeys(k for row in rows for k in row.get(EVIDENCE, {}))
    ]


def _over(metric: Metric) -> Callable[[Sequence[Any]], dict[str, float]]:
    assert metric.over is not None  # a metric of sets
    return metric.over


def mean_ci95(values: Sequence[float] | Wave) -> tuple[float, float, int]:
    """Mean, half width of the 95 % t interval and count of the values that are not nan."""
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    count = len(kept)
    if count < 2:
        return (float(kept[0]) if count else math.nan), math.nan, count
    return (
        float(kept.mean()),
        float(t_quantile(0.975, count - 1) * kept.std(ddof=1) / math.sqrt(count)),
        count,
    )
