"""Objectives of students by name, with their settings; the others train a plain network."""

from __future__ import annotations

from typing import Any

from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.objectives.integral import IntegralObjective
from mfdistill.distill.objectives.meanflow import MeanFlowObjective

OBJECTIVES: dict[str, tuple[type, Any]] = {
    "integral": (IntegralConfig, IntegralObjective),
    "meanflow": (MeanFlowConfig, MeanFlowObjective),
}
