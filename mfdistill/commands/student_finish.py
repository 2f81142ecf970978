"""student-finish."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.config import to_dict
from mfdistill.data.tts_config import TTSOptions
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
    import torch

    from mfdistill.students import Student
    from mfdistill.tasks.base import Task
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
    keep: float | None = None
    """Share of the weights that it starts from; the rest is random weights' ("shrink and perturb",
    arXiv 1910.08475), since trained weights learn something new more slowly than new ones. By
    default 0.5 where a student or teacher of vocode or phase, whose prior is around zero, is to do
    without noise (--temperature 0, no critics, --dmd.weight or --anchor); otherwise 1.
    """
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    finish: OmitArgPrefixes[FinishConfig] = field(default_factory=FinishConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    dmd: DmdConfig = field(default_factory=DmdConfig)
    tts: TTSOptions = field(default_factory=TTSOptions)
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
    settings = replace(command.finish, temperature=task.config.temperature)
    settings = completed(settings, task.finishing, task.config.name)
    times = schedules(settings, saved)
    student.schedule = times[settings.nfe[0]]
    spoken = task.rows == "utterances"
    if spoken:
        prepare(command, student, saved, settings, accelerator.device)
    objective = FinishObjective(
        student,
        task,
        times,
        settings,
        _teacher(command, student, saved),
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
        **({"tts": to_dict(command.tts), "guidance": saved.get("guidance")} if spoken else {}),
    }
    dataset = open_task_train(command.data, task, command.tts, command.training.seed)
    after = f"evaluate --student {command.training.out}"
    work = Work(objective, task, dataset, sections, after, command.tts)
    return launch(command, work, accelerator)


def opened(command: StudentFinish) -> tuple[Student, Plain]:
    """The student that is trained, its task at the temperature that is asked for, and the
    ``config.json`` that it starts from.

    Raises:
        UserError: no start or two, or one that cannot be finished.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.places import resolve
    from mfdistill.search.cache import digest_tensors
    from mfdistill.students import Student, load_student
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
    own, temperature = student.task, command.finish.temperature
    if own is None or not student.description:
        raise UserError(
            f"{what}: does not say its task and sizes; make a folder of it with teacher-import"
        )
    if student.description.get("int8"):
        raise UserError(f"{what}: has 8-bit weights; finish the whole model, then compress it")
    if student.adapter is not None:
        raise UserError(f"{what}: is an adapter; make a whole model of it first (mfdistill merge)")
    saved = load_config(place) if place.is_dir() else {}
    before = dict(saved.get("parent") or {}) if role == "student" else {}
    if temperature is None:
        temperature = own.config.temperature if own.rows == "utterances" else 0.0
    keep = share_kept(command, own, role, temperature)
    if keep < 1:
        student = _renewed(student, own, keep, command.training.seed)
    student.task = own.at_temperature(temperature)
    student.parent = {
        **before,
        "teacher": command.teacher or before.get("teacher"),
        "start": role,
        "from": path,
        "random": command.random,
        "keep": keep,
        "sha256": digest_tensors(student.state_dict()),
    }
    return student.train(), saved


def share_kept(command: StudentFinish, task: Task, role: str, temperature: float) -> float:
    """Of the weights of a start of ``task``; 0 is random ones.

    Raises:
        UserError: no share, or --random beside one.
    """
    if command.keep is not None and not 0 <= command.keep <= 1:
        raise UserError(f"--keep {command.keep:g}: must be between 0 and 1")
    if command.random:
        if command.keep not in (None, 0.0, 1.0):
            raise UserError(f"--random keeps nothing: leave --keep {command.keep:g} out, or --random")  # fmt: skip
        return 0.0
    if command.keep is not None:
        return command.keep
    stays = command.critic.weight or command.dmd.weight or command.finish.anchor
    loses_noise = task.config.temperature > 0 and temperature == 0
    return task.kept if loses_noise and not stays and role != "regression" else 1.0


def _renewed(student: Student, task: Task, keep: float, seed: int) -> Student:
    """A student of ``keep`` times the weights and 1 - ``keep`` times random ones."""
    import torch

    from mfdistill.networks import build_network
    from mfdistill.students import Student

    torch.manual_seed(seed)
    description = student.description
    assert description is not None
    network = build_network(description["name"], description["config"])
    # an output layer of zeros answers the prior's mean, and where that is silence a loss of
    # magnitudes has no gradient
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    fresh = Student(
        network,
        student.time_embedding,
        task,
        description=description,
        interval=student.interval,  # type: ignore[arg-type]
        guidance_input=student.guidance_input,
    ).train()
    if keep:
        kept = dict(student.named_parameters())
        with torch.no_grad():
            for name, parameter in fresh.named_parameters():
                parameter.lerp_(kept[name], keep)
    return fresh


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


def prepare(
    command: StudentFinish,
    student: Student,
    saved: Plain,
    settings: FinishConfig,
    device: torch.device,
) -> None:
    """Give the task of a text-to-speech flow what it reads, and what is drawn for its batches.

    Raises:
        UserError: options that such a flow cannot be finished with.
    """
    from mfdistill.commands.reopened import saved_rows
    from mfdistill.distill.equip import ready_to_train
    from mfdistill.places import resolve
    from mfdistill.students.load import facts_of

    task, (role, path) = student.task, start_of(command)
    assert task is not None
    if command.critic.weight:
        raise UserError(
            f"--critic.weight: critics know the conditions of tasks trained here, not those of {task.config.name}; "
            "take --dmd.weight"
        )
    if command.tts.data_free and settings.anchor:
        raise UserError(
            "--anchor: starts between noise and recordings, and --tts.data-free has none; take --dmd.weight"
        )
    if command.tts.data_free and settings.weights:
        name = next(iter(settings.weights)).replace("_", "-")
        raise UserError(
            f"--tts.data-free: there are no recordings for --{name} to compare with; give --{name} 0 and --dmd.weight 1"
        )
    _, _, draws = saved_rows(saved, f"--{role} {path}")
    ready_to_train(
        task,
        student.network,
        facts_of(student),
        resolve(path),
        device,
        command.tts,
        draws.guidance,
        command.training.seed,
    )


def _teacher(command: StudentFinish, student: Student, saved: Plain) -> Field | None:
    """The frozen teacher, where the objective needs one.

    Raises:
        UserError: none, or one of another task.
    """
    from mfdistill.commands.reopened import open_parent
    from mfdistill.commands.same import same_features, same_task

    if not command.finish.anchor and not command.dmd.weight:
        return None
    path = student.parent["teacher"]
    if not path or not Path(path).exists():
        raise UserError(
            f"--anchor, --dmd.weight: needs the teacher ({path or 'none is known'}); name its folder with --teacher"
        )
    teacher = open_parent({**saved, "parent": student.parent}, Path(path), command.teacher)
    own, other = student.task, teacher.task
    assert own is not None and other is not None
    if own.rows == "utterances":
        same_task(own, other, f"--teacher {path}")
    else:
        same_features(own.config, other.config, f"--teacher {path}")
    return teacher
