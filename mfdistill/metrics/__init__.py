"""Metrics of speech: what was kept, by the field's own packages, each imported when its metric is
first used.
"""

from mfdistill.metrics.base import TOLERANCE_S, Column, Metric, Undefined
from mfdistill.metrics.catalog import METRICS, column_of, direction, named, present, unit
from mfdistill.metrics.perceptual import pesq_mode
from mfdistill.metrics.rtf import measure_rtf
from mfdistill.metrics.score import score_utterances, scoring_pool
from mfdistill.metrics.summary import (
    differences,
    mean_ci95,
    paired_difference,
    plain,
    summarise,
)
from mfdistill.metrics.workers import Workers

__all__ = [
    "METRICS",
    "TOLERANCE_S",
    "Column",
    "Metric",
    "Undefined",
    "Workers",
    "column_of",
    "differences",
    "direction",
    "mean_ci95",
    "measure_rtf",
    "named",
    "paired_difference",
    "pesq_mode",
    "plain",
    "present",
    "score_utterances",
    "scoring_pool",
    "summarise",
    "unit",
]
