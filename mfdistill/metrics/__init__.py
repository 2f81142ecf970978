"""Metrics of speech: what was kept, by the field's own packages, each imported when its metric is
first used.
"""

from mfdistill.metrics.base import TOLERANCE_S, Metric, Undefined
from mfdistill.metrics.catalog import METRICS, direction, named, unit
from mfdistill.metrics.perceptual import pesq_mode
from mfdistill.metrics.rtf import measure_rtf
from mfdistill.metrics.score import (
    mean_ci95,
    paired_difference,
    score_utterances,
    scoring_pool,
    summarise,
)

__all__ = [
    "METRICS",
    "TOLERANCE_S",
    "Metric",
    "Undefined",
    "direction",
    "mean_ci95",
    "measure_rtf",
    "named",
    "paired_difference",
    "pesq_mode",
    "score_utterances",
    "scoring_pool",
    "summarise",
    "unit",
]
