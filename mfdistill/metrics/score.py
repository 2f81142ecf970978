"""Utterances -> rows -> summary with 95 % confidence intervals."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from mfdistill.errors import UserError
from mfdistill.metrics.base import Metric, Undefined, Wave, aligned
from mfdistill.metrics.catalog import METRICS, named

log = logging.getLogger(__name__)

Utterance = tuple[str, Wave, Wave] | tuple[str, Wave, Wave, Wave]
"""Name, estimate, reference, and perhaps a prompt."""
# columns of one metric on one utterance, and why they are nan ('' where they are not)
Values = tuple[dict[str, float], str]


def score_one(name: str, estimate: Wave, reference: Wave, sample_rate: int) -> Values:
    """Columns of metric ``name`` on one aligned pair; nan with the reason where it is undefined or
    the audio is not finite.
    """
    metric = METRICS[name]
    try:
        for what, wave in (("estimate", estimate), ("reference", reference)):
            if not np.isfinite(wave).all():
                raise Undefined(f"the {what} holds NaN or infinite samples")
        return metric.fn(estimate, reference, sample_rate), ""
    except Undefined as error:
        return dict.fromkeys(metric.columns, math.nan), str(error)


@contextlib.contextmanager
def scoring_pool(workers: int) -> Iterator[Executor | None]:
    """A process pool for many calls of `score_utterances` (starting one costs about a second); None
    for ``workers`` <= 1.

    Processes are spawned: forking one that holds threads of torch or CUDA may hang.
    """
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def score_utterances(
    utterances: Iterable[Utterance],
    metrics: Sequence[str],
    sample_rate: int,
    workers: int = 1,
    pool: Executor | None = None,
) -> list[dict[str, Any]]:
    """One row per utterance: ``{"name", <column of each metric>: float, "failed": "metric: reason;
    ..." or ""}``.

    Args:
        utterances: (name, estimate (s,), reference (s,)); lengths may differ by
            ``base.TOLERANCE_S`` and are trimmed to the shorter. A
            fourth waveform, of any length, is a prompt: metrics of the voice compare with that.
        metrics: names from ``METRICS``.
        workers: PESQ and ESTOI run in that many processes when above 1; ``pool`` (from
            `scoring_pool`) is used instead when given.

    A metric without a value on an utterance is nan there, and one warning counts such cases.

    Raises:
        UserError: unknown metric, missing package, lengths too far apart, empty audio, or workers
            that cannot start.
    """
    chosen = named(metrics)
    if pool is None and workers > 1:
        with scoring_pool(workers) as own:
            return _score(utterances, chosen, sample_rate, own)
    return _score(utterances, chosen, sample_rate, pool)


def _score(
    utterances: Iterable[Utterance],
    metrics: Sequence[Metric],
    sample_rate: int,
    pool: Executor | None,
) -> list[dict[str, Any]]:
    pooled = [metric for metric in metrics if metric.slow and pool is not None]
    pending: list[tuple[str, dict[str, Values | Future[Values]]]] = []
    try:
        for name, estimate, reference, *prompt in utterances:
            pair = aligned(estimate, reference, sample_rate, name)
            pairs = {
                metric.name: (pair[0], prompt[0]) if metric.voice and prompt else pair
                for metric in metrics
            }
            # submitted first, so that the pool works while this process scores the rest
            values: dict[str, Values | Future[Values]] = {}
            if pool is not None:
                values |= {
                    metric.name: pool.submit(
                        score_one, metric.name, *pairs[metric.name], sample_rate
                    )
                    for metric in pooled
                }
            values |= {
                metric.name: score_one(metric.name, *pairs[metric.name], sample_rate)
                for metric in metrics
                if metric not in pooled
            }
            pending.append((name, values))
        rows = [_row(name, values, metrics) for name, values in pending]
    except BrokenProcessPool as error:
        raise UserError(
            "workers: a scoring process ended early; set workers to 1, or, in a script, start the work under `if __name__ == '__main__':`"
        ) from error
    failed = [f"{row['name']}: {row['failed']}" for row in rows if row["failed"]]
    if failed:
        log.warning(
            "%d of %d utterances lack a metric and are left out of its mean; first: %s",
            len(failed),
            len(rows),
            failed[0],
        )
    return rows


def _row(
    name: str, values: dict[str, Values | Future[Values]], metrics: Sequence[Metric]
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    reasons = []
    for metric in metrics:
        value = values[metric.name]
        columns, reason = value.result() if isinstance(value, Future) else value
        row |= columns
        if reason:
            reasons.append(f"{metric.name}: {reason}")
    return row | {"failed": "; ".join(reasons)}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{"n": utterances, column: mean, column_ci95: half width, column_n: values that were not
    nan, ...}`` over every numeric column.

    The interval is Student's t over utterances; nan with fewer than two values.
    """
    numbers = (int, float)
    columns = dict.fromkeys(
        key
        for row in rows
        for key, value in row.items()
        if isinstance(value, numbers) and not isinstance(value, bool)
    )
    summary: dict[str, Any] = {"n": len(rows)}
    for column in columns:
        values = np.array([row.get(column, math.nan) for row in rows], dtype=np.float64)
        mean, half_width, count = mean_ci95(values)
        summary |= {column: mean, f"{column}_ci95": half_width, f"{column}_n": count}
    return summary


def mean_ci95(values: Sequence[float] | Wave) -> tuple[float, float, int]:
    """Mean, half width of the 95 % t interval and count of the values that are not nan."""
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    count = len(kept)
    if count < 2:
        return (float(kept[0]) if count else math.nan), math.nan, count
    from scipy.stats import t

    return (
        float(kept.mean()),
        float(t.ppf(0.975, count - 1) * kept.std(ddof=1) / math.sqrt(count)),
        count,
    )


def paired_difference(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], column: str
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
