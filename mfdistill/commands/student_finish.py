"""student-finish."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.config import to_dict
from mfdistill.distill.finishing.config import (
    CriticConfig,
    DmdConfig,
    FinishConfig,
    completed,
    schedules,
)
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.plain import Plain

if TYPE_CHECKING:
    from mfdistill.students import Student
    from mfdistill.teachers import Field


@dataclass(frozen=True)
class StudentFinish:
    """Finish a student: train the one- or two-step sampler that will be used on what is heard, such
    as multi-scale log-Mel spectrograms. Starts from a student, a teacher or a regression network.
    """

    student: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The student to finish."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The frozen teacher of --anchor and --dmd.weight (by default the student's own); without
    --student, the network to start from.
    """
    regression: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A regression network to start from: as a student its first answer is what it was."""
    random: bool = False
    """Start the network of that folder from random weights."""
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    finish: OmitArgPrefixes[FinishConfig] = field(default_factory=FinishConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    dmd: DmdConfig = field(default_factory=DmdConfig)
    data: Corpus = field(default_factory=Corpus)
    """By default what the start was trained on."""
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(
            out="runs/finished",
            steps=1200,
            batch_size=8,
            warmup=20,
            ema_decay=0.995,
            valid_every=400,
        )
    )
    valid: OmitArgPrefixes[ValidOptions] = field(
        default_factory=lambda: ValidOptions(valid_nfe=(1, 2))
    )


def run(command: StudentFinish) -> Path:
    """Finish as ``command`` says; returns the run's folder.

    Raises:
        UserError: bad options, start, teacher or data. Interrupted: stopped by a signal, after
            saving.
    """
    from mfdistill.commands.training import Work, launch
    from mfdistill.data.open import open_task_train
    from mfdistill.distill.objectives import FinishObjective
    from mfdistill.distill.train import make_accelerator

    accelerator = make_accelerator(command.training)
    student, saved = opened(command)
    task: Any = student.task
    settings = completed(command.finish, task.config.name)
    times = schedules(settings, saved)
    student.schedule = times[settings.nfe[0]]
    objective = FinishObjective(
        student,
        task,
        times,
        settings,
        _teacher(command, student),
        command.training.seed,
        command.critic,
        command.dmd,
    )
    sections = {
        **student.config,
        "schedules": {str(k): grid for k, grid in times.items() if k > 1},
        "objective": {
            "name": "finish",
            **to_dict(settings),
            "critic": to_dict(command.critic),
            "dmd": to_dict(command.dmd),
        },
    }
    dataset = open_task_train(command.data, task)
    after = f"evaluate --student {command.training.out}"
    return launch(command, Work(objective, task, dataset, sections, after), accelerator)


def opened(command: StudentFinish) -> tuple[Student, Plain]:
    """The student that is trained, its task at the temperature that is asked for, and the
    ``config.json`` that it starts from.

    Raises:
        UserError: no start or two, or one that cannot be finished.
    """
    import torch

    from mfdistill.checkpoint import load_config
    from mfdistill.networks import build_network
    from mfdistill.places import resolve
    from mfdistill.search.cache import digest_tensors
    from mfdistill.students import Student, load_student
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.tasks import get_task
    from mfdistill.teachers import load_network, load_teacher

    role, path = start_of(command)
    if role == "student":
        student = load_student(path)
    elif role == "teacher":
        student = Student.from_teacher(load_teacher(path))
    else:
        network, task, config = load_network(path, "regression")
        student = Student.from_network(network, task, 1, config["network"])
    place, what = resolve(path), f"--{role} {path}"
    own: Any = student.task
    if own is None or own.config.name in SYSTEMS or not student.description:
        raise UserError(
            f"{what}: is a flow of another system, which student-finish cannot train yet; name a model that was trained here"
        )
    if student.description.get("int8"):
        raise UserError(f"{what}: has 8-bit weights; finish the whole model, then compress it")
    saved = load_config(place) if place.is_dir() else {}
    before = saved.get("parent") or {}
    if command.random:
        torch.manual_seed(command.training.seed)
        name, sizes = student.description["name"], student.description["config"]
        network = build_network(name, sizes)
        # an output layer of zeros answers the prior's mean, and where that is silence a loss of
        # magnitudes has no gradient
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        student = Student.from_network(network, own, 1, student.description)
    student.task = get_task(
        replace(own.config, temperature=command.finish.temperature), own.predictor
    )
    student.parent = {
        "teacher": command.teacher or (before.get("teacher") if role == "student" else None),
        "start": role,
        "from": path,
        "random": command.random,
        "sha256": digest_tensors(student.state_dict()),
    }
    return student.train(), saved


def start_of(command: StudentFinish) -> tuple[str, str]:
    """Role and folder that the training starts from.

    Raises:
        UserError: none, or two.
    """
    if command.student and command.regression:
        raise UserError("--student and --regression exclude each other: give what to start from")
    for role in ("student", "regression", "teacher"):
        if path := getattr(command, role):
            return role, path
    raise UserError("student-finish: name what to start from: --student, --teacher or --regression")


def _teacher(command: StudentFinish, student: Student) -> Field | None:
    """The frozen teacher, where the objective needs one.

    Raises:
        UserError: none, or one of another task.
    """
    from mfdistill.commands.predictor import same_features
    from mfdistill.teachers import load_teacher

    if not command.finish.anchor and not command.dmd.weight:
        return None
    path = student.parent["teacher"]
    if not path or not Path(path).exists():
        raise UserError(
            f"--anchor, --dmd.weight: needs the teacher ({path or 'none is known'}); name its folder with --teacher"
        )
    teacher = load_teacher(path)
    same_features(student.task.config, teacher.task.config, f"--teacher {path}")  # type: ignore[union-attr]
    return teacher
