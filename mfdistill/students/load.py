"""Student folders: written after distillation, read by everything that follows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mfdistill.checkpoint import load_config, load_tensors, save_folder
from mfdistill.errors import UserError
from mfdistill.networks.predictor import with_predictor
from mfdistill.places import resolve
from mfdistill.plain import Section
from mfdistill.students.interval import IntervalEmbedding
from mfdistill.students.student import Student
from mfdistill.systems.base import FieldFacts, Opened, own_facts
from mfdistill.systems.table import SYSTEMS, recognise, telling_what_it_is
from mfdistill.teachers.folders import load_parts, open_folder, stream_by_frames


def student_kinds() -> list[str]:
    """The kinds of student that ``load_student`` reads; "interval" is trained here."""
    read = [name for name, system in SYSTEMS.items() if system.read_student is not None]
    return ["interval", *read]


def load_student(
    path: str | Path,
    kind: str | None = None,
    device: torch.device | str = "cpu",
    config: Section | None = None,
    streaming: bool = False,
    network: nn.Module | None = None,
) -> Student:
    """A student in evaluation mode, with the schedule saved beside it.

    Args:
        path: a folder that ``student-distill`` wrote, the hub id of such a folder, or a MeanFlowSE
            checkpoint.
        kind: one of ``student_kinds()``; found from the file where it can be.
        config: sizes for files that do not hold their own; a folder of ours does.
        streaming: run the network as its streaming form, frame by frame with a state; the numbers
            are the same to rounding.
        network: your own velocity network, freshly made, for a student of such a one; it is changed
            in place.

    Raises:
        UserError: nothing there, an unrecognised file, an unknown kind, a checkpoint of another
            role, or an option that the kind lacks.
    """
    place = resolve(path)
    if kind is None and not place.is_dir() and (kind := recognise(place)) not in student_kinds():
        raise UserError(
            f"{place}: not recognised as a student; this version reads folders that student-distill wrote, "
            f"and kinds: {', '.join(student_kinds())}"
        )
    kind = kind or "interval"
    if kind not in student_kinds():
        raise UserError(
            f"--kind {kind}: unknown kind of student; this version has: {', '.join(student_kinds())}"
        )
    if kind == "interval":
        return _open_folder(place, config, streaming, network).to(device).eval()
    with telling_what_it_is():
        opened = SYSTEMS[kind].read_student(place, config, streaming)  # type: ignore[misc]
    return _student(opened, place).to(device).eval()


def _student(opened: Opened, place: Path) -> Student:
    """A student out of another system's file."""
    network, config = opened.network, opened.config
    name = str(network.time_embedding_name)
    student = Student(
        network,
        name,
        opened.task,
        opened.schedule,
        config["network"],
        config["parent"],
        opened.interval,
        opened.guidance_input,
    )
    embedding = network.get_submodule(name)
    if opened.mixer is not None and isinstance(embedding, IntervalEmbedding):
        if embedding.weight.shape != opened.mixer.shape:
            raise UserError(
                f"{place}: its mixer of two times is {tuple(opened.mixer.shape)}, the network needs {tuple(embedding.weight.shape)}"
            )
        with torch.no_grad():
            embedding.weight.copy_(opened.mixer)
    return student


def _open_folder(
    path: Path, config: Section | None, streaming: bool, given: nn.Module | None
) -> Student:
    """A student trained here."""
    if config is not None:
        raise UserError(f"{path}: holds its own sizes; leave config out")
    if load_config(path).get("adapter"):
        from mfdistill.students.adapter import load_adapter

        student = load_adapter(path, load_config(path))
        return _streaming(student, path) if streaming else student
    saved, network, task = open_folder(path, "student", given)
    try:
        student = Student(
            network,
            saved["network"].get("time_embedding") or str(network.time_embedding_name),
            task,
            saved.get("schedule") or 1,
            saved["network"],
            saved.get("parent"),
            saved.get("interval") or "mixed",
            saved.get("guidance_input"),
        )
    except (TypeError, UserError) as error:
        raise UserError(f"{path}/config.json: schedule: {error}") from error
    load_parts(student, task, load_tensors(path), path)
    return _streaming(student, path) if streaming else student


def facts_of(student: Student) -> FieldFacts:
    """What is known of the field whose network a student has."""
    system = None if student.task is None else SYSTEMS.get(student.task.config.name)
    return own_facts(student.network) if system is None else system.facts(student.network)


def _streaming(student: Student, path: Path) -> Student:
    task, network = student.task, student.network
    assert task is not None
    if facts_of(student).streams == "chunks":
        network.streaming = True  # type: ignore[assignment]
    else:
        stream_by_frames(network, task, path)
        student.streaming = True
    return student


def save_student(
    student: Student,
    path: str | Path,
    objective: Section | None = None,
    training: Section | None = None,
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
