"""What is minimised: one objective per file, each ``objective(batch) -> (loss, logs)`` with the
trained module as ``.model``.

Settings load without torch, the objectives when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.lazy import exports

if TYPE_CHECKING:
    from mfdistill.distill.objectives.catalog import OBJECTIVES
    from mfdistill.distill.objectives.cfm import CFMObjective
    from mfdistill.distill.objectives.finish import FinishObjective
    from mfdistill.distill.objectives.integral import IntegralObjective, average_velocity, rollout
    from mfdistill.distill.objectives.meanflow import MeanFlowObjective
    from mfdistill.distill.objectives.regression import RegressionObjective, estimate

__all__ = [
    "OBJECTIVES",
    "CFMObjective",
    "FinishObjective",
    "IntegralConfig",
    "IntegralObjective",
    "MeanFlowConfig",
    "MeanFlowObjective",
    "RegressionObjective",
    "average_velocity",
    "estimate",
    "rollout",
]

__getattr__ = exports(
    __name__,
    {
        "catalog": "OBJECTIVES",
        "cfm": "CFMObjective",
        "finish": "FinishObjective",
        "integral": "IntegralObjective average_velocity rollout",
        "meanflow": "MeanFlowObjective",
        "regression": "RegressionObjective estimate",
    },
)
