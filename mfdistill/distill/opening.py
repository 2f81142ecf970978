"""A checkpoint, teacher, student or regression network, ready to be sampled and heard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config
from mfdistill.distill.equip import equip
from mfdistill.distill.inference import Along, Endpoint, Steps, endpoint, solved
from mfdistill.distill.mel_vocoder import open_mel_vocoder
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, solve
from mfdistill.places import resolve
from mfdistill.plain import Section
from mfdistill.students import Student, load_student
from mfdistill.systems.table import SYSTEMS, mel_system, role_of
from mfdistill.tasks import Restoration, Task, with_audio
from mfdistill.tasks.foreign import ForeignTask
from mfdistill.tasks.mel import GRIFFIN_LIM
from mfdistill.teachers import Field, load_network, load_teacher

Sampler = Literal["displacement", "euler"]


@dataclass(frozen=True)
class Model:
    """A checkpoint ready to be sampled."""

    role: str
    """teacher, student or regression."""
    task: Task
    module: nn.Module
    endpoint: Endpoint
    config: Section
    """As in its ``config.json``."""
    field: Field | None = None
    """Of a teacher."""

    @property
    def params(self) -> int:
        """Parameters, the predictor's included."""
        own = sum(p.numel() for p in self.module.parameters())
        predictor = self.task.predictor
        return own + (sum(p.numel() for p in predictor.parameters()) if predictor else 0)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device

    @property
    def audio_task(self) -> Restoration:
        """Its task as one that makes features of waveforms (errors as ``tasks.with_audio``)."""
        return with_audio(self.task)

    def solved_by(self, solver: str | Tableau) -> Model:
        """The same teacher integrated by another solver than Euler's.

        Raises:
            UserError: not a teacher.
        """
        if self.role != "teacher":
            raise UserError(f"--solver: a {self.role} is not integrated; solvers are for teachers")
        if self.field is None:
            return replace(self, endpoint=endpoint(self.role, self.module, self.task, solver))
        return replace(self, endpoint=solved(self.field.velocity, self.field.facts, solver))

    def sampled_by(self, sampler: Sampler) -> Model:
        """The same student by "displacement" (its average velocity along the schedule), or by
        "euler": Euler's steps of its instantaneous velocity u(z, t, t), 5 where no number is named,
        as MeanFlowSE's own.

        Raises:
            UserError: "displacement" of a model that has no average velocity.
        """
        if self.role == "student" and sampler == "euler":
            return replace(
                self,
                endpoint=lambda z_0, cond, steps: solve(
                    lambda z, t: self.module(z, t, t, cond), z_0, steps or 5, "euler"
                ),
            )
        if self.role != "student" and sampler == "displacement":
            raise UserError(
                f"--sampler displacement: a {self.role} has no average velocity; leave it out, or name a student"
            )
        return self

    def schedule(self, nfe: int) -> tuple[str, Steps]:
        """Name and steps for ``nfe`` evaluations: the searched schedule where ``config.json`` has
        one, else equal steps.
        """
        found = (self.config.get("schedules") or {}).get(str(nfe))
        return ("o3s", [float(t) for t in found]) if found else ("uniform", nfe)


def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    role: str | None = None,
    guidance: float | None = None,
) -> Model:
    """Load a folder, or a checkpoint of another system: a student along its own schedule, a teacher
    along its system's grid with guidance, a regression network.

    A MeanFlowSE checkpoint is a student if it was trained with its MeanFlow term, a teacher
    otherwise, unless ``role`` says which.

    Args:
        guidance: strength, of a teacher (None: its own) or of a student that is told it (None: its
            system's, where that is in its range).

    Raises:
        UserError: no such folder or file, damaged, not of ``role``, or guidance for a model that
            has none.
    """
    torch.set_flush_denormal(True)
    place = resolve(path)
    config = {} if place.is_file() else load_config(place)
    found = role or config.get("role") or role_of(place)
    if found == "regression" and place.is_file():
        raise UserError(
            f"{place}: a checkpoint of another system is no {role}; name a folder that teacher-train wrote"
        )
    if found == "regression":
        network, task, config = load_network(place, found, device)
        model = Model(found, task, network, endpoint(found, network, task), config)
    elif found == "student":
        student = load_student(place, device=device)
        task = _known(student.task, place)
        strength = _told(config, student, guidance, place)
        model = Model(found, task, student, Along(student, strength), config or student.config)
    elif found == "teacher":
        model = model_of(load_teacher(place, device=device, guidance_strength=guidance))
    else:
        raise UserError(f"{path}: holds a {found}; known are teacher, student and regression")
    if model.task.vocoder_name is not None:
        attach_vocoder(model.task, device)
    return model


def model_of(teacher: Field) -> Model:
    """A teacher that is open already.

    Raises:
        UserError: it has no task.
    """
    task = _known(
        teacher.task, str((teacher.config.get("parent") or {}).get("file") or "this teacher")
    )
    run = solved(teacher.velocity, teacher.facts)
    return Model("teacher", task, teacher.network, run, teacher.config, teacher)


def open_audio_model(
    path: str | Path, device: torch.device | str = "cpu", role: str | None = None
) -> Model:
    """``open_model`` of one that makes features of recordings (errors as there).

    Raises:
        UserError: a text-to-speech flow; told before anything is loaded.
    """
    place = resolve(path)
    system = mel_system(place, {} if place.is_file() else load_config(place))
    if system is not None:
        raise UserError(
            f"{place}: is a text-to-speech flow (kind {system.name}): it makes Mel spectrograms and has no recordings to restore; "
            "docs/foreign-tts.md says what can be done with it (teacher-import, student-distill, synthesize, export)"
        )
    return open_model(path, device, role)


def ready(
    path: str | Path,
    device: torch.device | str = "cpu",
    role: str | None = None,
    guidance: float | None = None,
    vocoder: str | None = None,
) -> Model:
    """``open_model`` with everything that it takes to hear it: what its task reads, and a vocoder.

    Args:
        vocoder: another one than the model's.
    """
    model = open_model(path, device, role, guidance)
    network = model.module.network if model.role == "student" else model.module
    equip(model.task, network, resolve(path), device)  # type: ignore[arg-type]
    if vocoder is not None or model.task.rows == "utterances":
        attach_vocoder(model.task, device, vocoder)
    return model


def flow_task(model: Model) -> ForeignTask:
    """The task of a model of another system's Mel flow."""
    return cast(ForeignTask, model.task)


def _known(task: Task | None, place: Path | str) -> Task:
    if task is None:
        raise UserError(
            f"{place}: does not say its prior's spread, so it cannot be run on audio files; make a folder of it with "
            "teacher-import --sizes FILE (JSON with sigma_y) and name that"
        )
    return task


def _told(config: Section, student: Student, guidance: float | None, place: Path) -> float | None:
    """The strength that a student is told, or None."""
    limit = student.guidance_input
    if limit is None:
        if guidance is not None:
            raise UserError(
                f"--guidance {guidance:g}: {place} has its guidance learnt and is told none; leave it out"
            )
        return None
    low, high = (config.get("guidance") or {}).get("range") or (0.0, limit)
    system = None if student.task is None else SYSTEMS.get(student.task.config.name)
    own = limit if system is None or system.guidance is None else system.guidance
    strength = own if guidance is None else guidance
    if not low <= strength <= high:
        raise UserError(
            f"--guidance {strength:g}: {place} was trained with strengths from {low:g} to {high:g}; give one of these"
        )
    return strength


def attach_vocoder(
    task: Task,
    device: torch.device | str = "cpu",
    path: str | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Give a Mel task its vocoder: ``path``, or its own. Does nothing for tasks whose states are
    audible without one.

    Args:
        path: of our Mel tasks, a `vocode` model's folder or "griffin-lim" (default: what the
            configuration names); of other systems' as ``mel_vocoder.open_mel_vocoder``.
        steps: of a `vocode` model; None is the schedule saved with it (a teacher's 10 steps).
        seed: of its noise, which is a function of the frame's number.

    Raises:
        UserError: no such model, no vocoder, or one of another Mel spectrogram.
    """
    if task.rows == "utterances":
        task.vocoder = open_mel_vocoder(path, cast(ForeignTask, task), device)
        return
    path = path or task.vocoder_name
    if task.vocoder_name is None or path is None:
        return
    if path == GRIFFIN_LIM:
        task.vocoder, task.config = None, replace(task.config, vocoder=path)
        return
    try:
        model = open_audio_model(path, device)
    except UserError as error:
        hint = "a vocoder is a vocode model's folder (--vocoder, --speech.vocoder) or griffin-lim"
        raise UserError(f"vocoder {error}; {hint}") from error
    own, other = task.config, model.task.config
    if other.name != "vocode" or (own.stft, own.n_mels) != (other.stft, other.n_mels):
        raise UserError(
            f"--vocoder {path}: a {other.name} model at {other.stft.sample_rate} Hz with {other.n_mels} Mel bands, hop {other.stft.hop}; "
            f"this one needs vocode at {own.stft.sample_rate} Hz with {own.n_mels} bands, hop {own.stft.hop}, in the same windows"
        )
    vocoder = model.audio_task

    @torch.no_grad()
    def vocode(y: Tensor, length: int) -> Tensor:
        cond = vocoder.completed({"y": y})
        z_0 = vocoder.path.prior(cond, vocoder.start(cond, seed, "vocoder"))
        return vocoder.waveform(model.endpoint(z_0, cond, steps), length)

    task.vocoder = vocode
