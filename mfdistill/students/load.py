"""Student folders: written after distillation, read by everything that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.checkpoint import load_tensors, save_folder
from mfdistill.errors import UserError
from mfdistill.places import resolve
from mfdistill.students.student import Student
from mfdistill.tasks.foreign import ForeignTask
from mfdistill.teachers.load import load_parts, open_folder, recognise, stream_by_frames
from mfdistill.teachers.predictor import with_predictor


def load_student(
    path: str | Path,
    kind: str | None = None,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student in evaluation mode, with the schedule saved beside it.

    Args:
        path: a folder that ``student-distill`` wrote, the hub id of such a folder, or a MeanFlowSE
            checkpoint.
        kind: one of ``STUDENTS``; found from the file where it can be.
        config: sizes for files that do not hold their own; a folder of ours does.
        streaming: run the network as its streaming form, frame by frame with a state; the numbers
            are the same to rounding.

    Raises:
        UserError: nothing there, an unrecognised file, an unknown kind, a checkpoint of another
            role, or an option that the kind lacks.
    """
    place = resolve(path)
    if kind is None and not place.is_dir() and (kind := recognise(place)) not in STUDENTS:
        raise UserError(
            f"{place}: not recognised as a student; this version reads folders that student-distill wrote, "
            f"and kinds: {', '.join(STUDENTS)}"
        )
    kind = kind or "interval"
    if kind not in STUDENTS:
        raise UserError(
            f"--kind {kind}: unknown kind of student; this version has: {', '.join(STUDENTS)}"
        )
    return STUDENTS[kind](place, device, config, streaming)


def load_interval(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student trained here, from its folder (arguments and errors as ``load_student``)."""
    if config is not None:
        raise UserError(f"{path}: holds its own sizes; leave config out")
    saved, network, task = open_folder(path, "student")
    name: str = network.time_embedding_name  # type: ignore[assignment]
    try:
        schedule, interval = saved.get("schedule") or 1, saved.get("interval") or "mixed"
        student = Student(
            network,
            name,
            task,
            schedule,
            saved["network"],
            saved.get("parent"),
            interval,
            saved.get("guidance_input"),
        )
    except (TypeError, UserError) as error:
        raise UserError(f"{path}/config.json: schedule: {error}") from error
    load_parts(student, task, load_tensors(path), path)
    if streaming and isinstance(task, ForeignTask):  # CosyVoice streams by chunks of its attention
        if not getattr(network.config, "static_chunk_size", 0) or not getattr(
            network.config, "causal", True
        ):
            raise UserError(f"{path}: this network has no streaming form; leave streaming out")
        network.streaming = True  # type: ignore[assignment]
    elif streaming:
        stream_by_frames(student.network, task, path)
        student.streaming = True
    return student.to(device).eval()


def load_meanflowse(*args: Any, **options: Any) -> Student:
    """A MeanFlowSE checkpoint (``students.meanflowse``)."""
    from mfdistill.students.meanflowse import load_meanflowse

    return load_meanflowse(*args, **options)


def load_chatterbox(*args: Any, **options: Any) -> Student:
    """A Chatterbox or CosyVoice 2 flow with a mixer of two times (``students.chatterbox``)."""
    from mfdistill.students.chatterbox import load_chatterbox

    return load_chatterbox(*args, **options)


def load_cosyvoice3_student(*args: Any, **options: Any) -> Student:
    """A CosyVoice 3 flow with a mixer of two times (``students.chatterbox``)."""
    from mfdistill.students.chatterbox import load_cosyvoice3_student

    return load_cosyvoice3_student(*args, **options)


def load_f5_student(kind: str) -> Callable[..., Student]:
    """The loader of students in F5-TTS's layout (``students.f5``)."""

    def load(*args: Any, **options: Any) -> Student:
        from mfdistill.students.f5 import load_f5_student

        return load_f5_student(kind, *args, **options)

    return load


STUDENTS: dict[str, Callable[..., Student]] = {
    "interval": load_interval,
    "meanflowse": load_meanflowse,
    "chatterbox": load_chatterbox,
    "cosyvoice3": load_cosyvoice3_student,
    "f5": load_f5_student("f5"),
    "f5-unett": load_f5_student("f5-unett"),
}


def save_student(
    student: Student,
    path: str | Path,
    objective: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model.safetensors`` and ``config.json``.

    Raises:
        UserError: the folder cannot be written.
        ValueError: the student has no task or no description of its network, so nobody could load
            it.
    """
    if student.task is None or student.description is None:
        raise ValueError(
            "a student without a task or without a description of its network cannot be saved"
        )
    config = {
        **student.config,
        "objective": dict(objective or {}) or None,
        "training": dict(training or {}),
    }
    save_folder(path, with_predictor(student.state_dict(), student.task), config)
