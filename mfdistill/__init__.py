"""mfdistill: conditional-flow-matching speech teachers into one- to three-step MeanFlow
students. What is exported here loads (with torch) when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.lazy import exports
from mfdistill.version import __version__ as __version__

if TYPE_CHECKING:
    from mfdistill.distill.objectives import (
        IntegralConfig,
        IntegralObjective,
        MeanFlowConfig,
        MeanFlowObjective,
    )
    from mfdistill.distill.own import OwnBatches
    from mfdistill.distill.settings import TrainConfig
    from mfdistill.distill.train import train
    from mfdistill.flow import IntervalConfig, solve, total_derivative
    from mfdistill.students import Student, load_student, sample, save_student
    from mfdistill.tasks import OwnTask
    from mfdistill.teachers import Field, FieldFacts, load_teacher

__all__ = [
    "Field",
    "FieldFacts",
    "IntegralConfig",
    "IntegralObjective",
    "IntervalConfig",
    "MeanFlowConfig",
    "MeanFlowObjective",
    "OwnBatches",
    "OwnTask",
    "Student",
    "TrainConfig",
    "load_student",
    "load_teacher",
    "sample",
    "save_student",
    "solve",
    "total_derivative",
    "train",
]

__getattr__ = exports(
    __name__,
    {
        "distill.objectives": "IntegralConfig IntegralObjective MeanFlowConfig MeanFlowObjective",
        "distill.own": "OwnBatches",
        "distill.settings": "TrainConfig",
        "distill.train": "train",
        "flow": "IntervalConfig solve total_derivative",
        "students": "Student load_student sample save_student",
        "tasks": "OwnTask",
        "teachers": "Field FieldFacts load_teacher",
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
