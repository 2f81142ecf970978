"""What is minimised: one objective per file, each ``objective(batch) -> (loss, logs)`` with the trained module as ``.model``."""

from mfdistill.distill.objectives.cfm import CFMObjective
from mfdistill.distill.objectives.integral import IntegralConfig, IntegralObjective, average_velocity, rollout
from mfdistill.distill.objectives.meanflow import MeanFlowConfig, MeanFlowObjective
from mfdistill.distill.objectives.regression import RegressionObjective, estimate

# of students; the other two train a plain network
OBJECTIVES = {"integral": (IntegralConfig, IntegralObjective), "meanflow": (MeanFlowConfig, MeanFlowObjective)}

__all__ = [
    "OBJECTIVES",
    "CFMObjective",
    "IntegralConfig",
    "IntegralObjective",
    "MeanFlowConfig",
    "MeanFlowObjective",
    "RegressionObjective",
    "average_velocity",
    "estimate",
    "rollout",
]
