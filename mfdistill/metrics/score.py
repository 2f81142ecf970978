"""Utterances -> rows."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from mfdistill.errors import UserError
from mfdistill.metrics.base import Metric, Undefined, Wave, aligned
from mfdistill.metrics.catalog import named
from mfdistill.metrics.workers import Died, Workers, default_workers
from mfdistill.plain import Plain

log = logging.getLogger(__name__)

Utterance = tuple[str, Wave, Wave] | tuple[str, Wave, Wave, Wave]
"""Name, estimate, reference, and perhaps a prompt."""


def named_pair(name: str, compared: tuple[Wave, Wave] | tuple[Wave, Wave, Wave]) -> Utterance:
    """What is compared of one utterance, under its name."""
    if len(compared) == 2:
        return name, compared[0], compared[1]
    return name, compared[0], compared[1], compared[2]


# columns (or a set metric's evidence) of one metric on one utterance, and why there are none (''
# where there are)
Values = tuple[Any, str]
EVIDENCE = "evidence"
"""Key of a row under which set metrics keep what they need of the utterance, by their names."""
_LIMIT_S, _LIMIT_FACTOR = 120.0, 20.0  # a worker's time: for itself and per second of audio
MOST_WORKERS = 64


def score_one(metric: Metric, estimate: Wave, reference: Wave, sample_rate: int) -> Values:
    """Columns of a metric on one aligned pair; nan with the reason where it is undefined or the
    audio is not finite. Of a set metric its evidence, None where it has none.
    """
    try:
        for what, wave in (("estimate", estimate), ("reference", reference)):
            if not np.isfinite(wave).all():
                raise Undefined(f"the {what} holds NaN or infinite samples")
        return _in_pieces(metric, estimate, reference, sample_rate), ""
    except Undefined as error:
        return _nothing(metric), str(error)


def _nothing(metric: Metric) -> dict[str, float] | None:
    return dict.fromkeys(metric.names, math.nan) if metric.over is None else None


def _in_pieces(metric: Metric, estimate: Wave, reference: Wave, sample_rate: int) -> Any:
    """The metric of the whole, or the mean over equal pieces of those that have a value."""
    seconds = len(estimate) / sample_rate
    if metric.piece_s is None or seconds <= metric.piece_s:
        return metric.fn(estimate, reference, sample_rate)
    count = math.ceil(seconds / metric.piece_s)
    found, reason = [], Undefined("no piece of it has a value")
    for one, other in zip(
        np.array_split(estimate, count), np.array_split(reference, count), strict=True
    ):
        try:
            found.append(metric.fn(one, other, sample_rate))
        except Undefined as error:
            reason = error
    if not found:
        raise reason
    values = {name: [piece[name] for piece in found] for name in metric.names}
    return {
        name: float(np.mean([value for value in piece if not math.isnan(value)] or [math.nan]))
        for name, piece in values.items()
    }


@contextlib.contextmanager
def scoring_pool(workers: int) -> Iterator[Workers]:
    """Processes for many calls of `score_utterances`; for one worker the one that is there anyway.

    Raises:
        UserError: none, or more than any machine should start.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"--workers {workers}: must lie between 1 and {MOST_WORKERS}")
    if workers == 1:
        yield default_workers()
        return
    pool = Workers(workers)
    try:
        yield pool
    finally:
        pool.close()


def score_utterances(
    utterances: Iterable[Utterance],
    metrics: Sequence[str],
    sample_rate: int,
    workers: int = 1,
    pool: Workers | None = None,
) -> list[Plain]:
    """One row per utterance: ``{"name", <column of each metric>: float, "failed": "metric: reason;
    ..." or ""}``, and under ``EVIDENCE`` what `summarise` makes set metrics of.

    Args:
        utterances: (name, estimate (s,), reference (s,)); lengths may differ by
            ``base.TOLERANCE_S`` and are trimmed to the shorter. A
            fourth waveform, of any length, is a prompt: metrics of the voice compare with that.
        metrics: names from ``METRICS``.
        workers: processes for the slow metrics and those of native code, beside this one; ``pool``
            (from `scoring_pool`) is used instead when given.

    A metric without a value on an utterance, or whose process died or took too long there, is nan,
    and one warning counts such cases.

    Raises:
        UserError: unknown metric, missing package, lengths too far apart, empty audio, or workers
            that cannot start.
    """
    chosen = named(metrics)
    if pool is None:
        with scoring_pool(workers) as own:
            return _score(utterances, chosen, sample_rate, own)
    return _score(utterances, chosen, sample_rate, pool)


def _score(
    utterances: Iterable[Utterance], metrics: Sequence[Metric], sample_rate: int, pool: Workers
) -> list[Plain]:
    pending: list[tuple[str, dict[str, Values | Future[Values]]]] = []
    try:
        for name, estimate, reference, *prompt in utterances:
            pair = aligned(estimate, reference, sample_rate, name)
            limit_s = _LIMIT_S + _LIMIT_FACTOR * len(pair[0]) / sample_rate
            values: dict[str, Values | Future[Values]] = {}
            pending.append((name, values))
            # submitted first, so that the workers work while this process scores the rest
            for metric in sorted(metrics, key=lambda metric: not metric.worker):
                own = (pair[0], prompt[0]) if metric.voice and prompt else pair
                values[metric.name] = (
                    pool.submit(limit_s, score_one, metric, *own, sample_rate)
                    if metric.worker
                    else score_one(metric, *own, sample_rate)
                )
        rows = [_row(name, values, metrics) for name, values in pending]
    except BaseException:  # Ctrl-C too: nobody waits for what was submitted
        found = [value for _, values in pending for value in values.values()]
        pool.abandon([value for value in found if isinstance(value, Future)])
        raise
    failed = [f"{row['name']}: {row['failed']}" for row in rows if row["failed"]]
    if failed:
        log.warning(
            "%d of %d utterances lack a metric and are left out of its mean; first: %s",
            len(failed),
            len(rows),
            failed[0],
        )
    return rows


def _row(name: str, values: dict[str, Values | Future[Values]], metrics: Sequence[Metric]) -> Plain:
    row: Plain = {"name": name}
    evidence: Plain = {}
    reasons = []
    for metric in metrics:
        value = values[metric.name]
        try:
            found, reason = value.result() if isinstance(value, Future) else value
        except Died as error:
            found, reason = _nothing(metric), str(error)
        if metric.over is None:
            row |= found or {}
        else:
            evidence[metric.name] = found
        if reason:
            reasons.append(f"{metric.name}: {reason}")
    return row | {"failed": "; ".join(reasons)} | ({EVIDENCE: evidence} if evidence else {})
