"""What can be told of a command before torch is imported, which takes seconds: files that are not
there, numbers out of range, metrics and packages that do not exist.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mfdistill.commands.demo import Demo
from mfdistill.commands.restore import Restore
from mfdistill.commands.scratch import ScratchOptions
from mfdistill.commands.stream import Stream
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.config import check_sample_rate
from mfdistill.data.config import DataConfig
from mfdistill.data.folders import check_folder
from mfdistill.data.sources import is_table
from mfdistill.distill.settings import TrainConfig, check_run
from mfdistill.errors import UserError
from mfdistill.places import check_place

MODELS = ("model", "student", "teacher", "regression", "predictor", "checkpoint")
"""Fields that name a model."""
POSITIVE = ("nfe", "batch", "limit", "workers", "iterations", "audio", "student_nfe", "teacher_nfe")  # fmt: skip
_ZERO = ("workers", "audio")


def check_early(command: Any) -> None:
    """Raise ``UserError`` for what is wrong with the command for certain."""
    if isinstance(command, (Restore, Stream)):
        _check_audio(command)
    for part in (command, getattr(command, "search", None)):
        _check_numbers(part)
        _check_metrics(part)
    for name in MODELS:
        place = getattr(command, name, None)
        if isinstance(place, str) and not isinstance(command, (Restore, Stream)):
            check_place(place)
    for part in (command, getattr(command, "scratch", None)):
        if isinstance(part, (Demo, ScratchOptions, TeacherTrain)):
            check_sample_rate(part.sample_rate)
    data, training = getattr(command, "data", None), getattr(command, "training", None)
    if isinstance(data, DataConfig):
        _check_data(data)
    if isinstance(training, TrainConfig):
        check_run(training, int(os.environ.get("WORLD_SIZE", "1")))


def _check_audio(command: Restore | Stream) -> None:
    """Its files, and its model where it is no file of those."""
    source, target = command.source, getattr(command, "target", None)
    if isinstance(command, Restore):
        from mfdistill.commands.restore import chosen, jobs_of

        command = chosen(command)
        check_place(command.model)
        jobs = jobs_of(Path(command.source), Path(str(command.target)))
        if Path(command.source).is_file() and jobs[0][1].exists() and not command.overwrite:
            raise UserError(f"{jobs[0][1]}: already there; --overwrite replaces it")
        return
    if command.student is not None:
        check_place(command.student)
    if isinstance(source, str) and target is not None and source not in ("-", "mic"):
        if not Path(source).exists():
            raise UserError(f"{source}: no such file; check the name")


def _check_numbers(part: Any) -> None:
    for name in POSITIVE:
        value = getattr(part, name, None)
        least = 0 if name in _ZERO else 1
        values = value if isinstance(value, tuple) else (value,)
        for number in values:
            if type(number) is int and number < least:
                raise UserError(f"--{name.replace('_', '-')} {number}: must be at least {least}")


def _check_metrics(part: Any) -> None:
    metrics = getattr(part, "metrics", None)
    if isinstance(metrics, tuple) and metrics:
        from mfdistill.metrics.catalog import named

        named(metrics)


def _check_data(data: DataConfig) -> None:
    if data.source != "embedded" and not data.streaming and not is_table(data.source):
        check_folder(Path(data.source).expanduser())
