"""Restoration tasks: enhancement and vocoding."""

from mfdistill.tasks.task import TASKS, Enhance, Task, TaskConfig, Vocode, default_task, get_task

__all__ = ["TASKS", "Enhance", "Task", "TaskConfig", "Vocode", "default_task", "get_task"]
