"""Restoration tasks: enhancement, vocoding, phase retrieval, dereverberation, codec post-filter, bandwidth extension."""

from mfdistill.tasks.base import Task
from mfdistill.tasks.config import TaskConfig
from mfdistill.tasks.enhance import Enhance
from mfdistill.tasks.phase import Phase
from mfdistill.tasks.task import FRAMINGS, TASKS, default_task, get_task
from mfdistill.tasks.vocode import Vocode

__all__ = ["FRAMINGS", "TASKS", "Enhance", "Phase", "Task", "TaskConfig", "Vocode", "default_task", "get_task"]
