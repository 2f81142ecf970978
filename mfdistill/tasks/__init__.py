"""Restoration tasks: enhancement, vocoding, phase retrieval, dereverberation, codec post-filter,
bandwidth extension.
"""

from mfdistill.tasks.base import Predictor, Restoration, Task, with_audio
from mfdistill.tasks.config import TaskConfig
from mfdistill.tasks.enhance import Enhance
from mfdistill.tasks.mel import MelTask, MelTaskConfig
from mfdistill.tasks.own import OwnTask
from mfdistill.tasks.phase import Phase
from mfdistill.tasks.task import (
    FRAMINGS,
    TASKS,
    default_task,
    get_task,
    predicted,
    read_task_config,
)
from mfdistill.tasks.vocode import Vocode

__all__ = [
    "FRAMINGS",
    "TASKS",
    "Enhance",
    "MelTask",
    "MelTaskConfig",
    "OwnTask",
    "Phase",
    "Predictor",
    "Restoration",
    "Task",
    "TaskConfig",
    "Vocode",
    "default_task",
    "get_task",
    "predicted",
    "read_task_config",
    "with_audio",
]
