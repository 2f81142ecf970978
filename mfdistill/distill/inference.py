"""Any model of ours, teacher, student or regression, from a degraded waveform to a restored one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config
from mfdistill.data.texts import prepared
from mfdistill.distill.objectives.regression import estimate
from mfdistill.errors import UserError
from mfdistill.flow import Tableau, noise, solve
from mfdistill.places import resolve
from mfdistill.students import load_student, sample, student_kinds
from mfdistill.systems.lightning import read_checkpoint
from mfdistill.systems.table import mel_inputs, recognise
from mfdistill.tasks import with_audio
from mfdistill.tasks.mel import GRIFFIN_LIM
from mfdistill.teachers import load_network, load_teacher, own_facts

if TYPE_CHECKING:
    from mfdistill.tasks import Restoration

Steps = int | Sequence[float]
Sampler = Literal["displacement", "euler"]
Endpoint = Callable[[Tensor, Mapping[str, Tensor], Steps | None], Tensor]
"""``(z_0, cond, steps) -> z_1``"""


@dataclass(frozen=True)
class Model:
    """A checkpoint ready to be sampled."""

    role: str
    """teacher, student or regression."""
    task: Restoration
    module: nn.Module
    endpoint: Endpoint
    config: Mapping[str, Any]
    """As in its ``config.json``."""

    @property
    def params(self) -> int:
        """Parameters, the predictor's included."""
        predictor: Any = self.task.predictor
        return sum(
            p.numel()
            for part in (self.module, predictor)
            if part is not None
            for p in part.parameters()
        )

    def solved_by(self, solver: str | Tableau) -> Model:
        """The same teacher integrated by another solver than Euler's.

        Raises:
            UserError: not a teacher.
        """
        if self.role != "teacher":
            raise UserError(f"--solver: a {self.role} is not integrated; solvers are for teachers")
        return replace(self, endpoint=endpoint(self.role, self.module, self.task, solver))

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
    path: str | Path, device: torch.device | str = "cpu", role: str | None = None
) -> Model:
    """Load a folder that was trained here, or a checkpoint of another system that has a task of
    ours (SGMSE, FlowSE, MeanFlowSE).

    A MeanFlowSE checkpoint is a student if it was trained with its MeanFlow term, a teacher
    otherwise, unless ``role`` says which.

    Raises:
        UserError: no such folder or file, damaged, or not of ``role``.
    """
    torch.set_flush_denormal(True)
    place = resolve(path)
    if place.is_file():
        return _open_foreign(place, device, role)
    config = load_config(place)
    _refuse_mel_flow(place, (config.get("task") or {}).get("name"))
    found = role or config.get("role")
    if found == "student":
        student = load_student(place, device=device)
        task = with_audio(student.task, str(path))
        attach_vocoder(task, device)
        return Model(found, task, student, endpoint(found, student, task), config)
    if found not in ("teacher", "regression"):
        raise UserError(f"{path}: holds a {found}; known are teacher, student and regression")
    network, own, config = load_network(place, found, device)
    task = with_audio(own, str(path))
    attach_vocoder(task, device)
    return Model(found, task, network, endpoint(found, network, task), config)


def _refuse_mel_flow(place: Path, kind: str | None) -> None:
    if mel_inputs(kind) is not None:
        raise UserError(
            f"{place}: is a text-to-speech flow (kind {kind}): it makes Mel spectrograms and has no recordings to restore; "
            "docs/foreign-tts.md says what can be done with it (teacher-import, student-distill, synthesize, export)"
        )


def _open_foreign(place: Path, device: torch.device | str, role: str | None) -> Model:
    _refuse_mel_flow(place, recognise(place))
    if role is None:
        average = recognise(place) in student_kinds() and read_checkpoint(place).settings.get(
            "use_mfse", True
        )
        role = "student" if average else "teacher"
    if role == "student":
        student = load_student(place, device=device)
        task, module, config = student.task, student, student.config
    elif role == "teacher":
        teacher = load_teacher(place, device=device)
        task, module, config = (
            teacher.task,
            teacher.network,
            teacher.config,
        )
    else:
        raise UserError(
            f"{place}: a checkpoint of another system is no {role}; name a folder that teacher-train wrote"
        )
    if task is None:
        raise UserError(
            f"{place}: does not say its prior's spread, so it cannot be run on audio files; make a folder of it with "
            "teacher-import --sizes FILE (JSON with sigma_y) and name that"
        )
    own = with_audio(task, str(place))
    return Model(role, own, module, endpoint(role, module, own), config)


def attach_vocoder(
    task: Any,
    device: torch.device | str = "cpu",
    path: str | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Give a Mel task its vocoder: ``path``, or the one that its configuration names. Does nothing
    for other tasks and for Griffin-Lim.

    Args:
        steps: of the vocoder; None is the schedule saved with it (a teacher's 10 steps).
        seed: of its noise, which is a function of the frame's number.

    Raises:
        UserError: no such model, no vocoder, or one of another Mel spectrogram.
    """
    path = path or task.vocoder_name
    if task.vocoder_name is None or path is None:
        return
    if path == GRIFFIN_LIM:
        task.vocoder = None
        return
    try:
        model = open_model(path, device)
    except UserError as error:
        hint = "a vocoder is a vocode model's folder (--vocoder, --speech.vocoder) or griffin-lim"
        raise UserError(f"vocoder {error}; {hint}") from error
    own, other = task.config, model.task.config
    if other.name != "vocode" or (own.stft, own.n_mels) != (other.stft, other.n_mels):
        raise UserError(
            f"--vocoder {path}: a {other.name} model at {other.stft.sample_rate} Hz with {other.n_mels} Mel bands, hop {other.stft.hop}; "
            f"this one needs vocode at {own.stft.sample_rate} Hz with {own.n_mels} bands, hop {own.stft.hop}, in the same windows"
        )

    @torch.no_grad()
    def vocode(y: Tensor, length: int) -> Tensor:
        _, channels, freqs, frames = y.shape
        eps = noise(
            seed, torch.arange(frames), "vocoder", (channels, freqs), device=y.device
        ).permute(1, 2, 0)
        cond = model.task.completed({"y": y})
        z_0 = model.task.path.prior(cond, eps[None].expand_as(y))
        return model.task.waveform(model.endpoint(z_0, cond, steps), length)

    task.vocoder = vocode


def endpoint(
    role: str, module: nn.Module, task: Restoration, solver: str | Tableau = "euler"
) -> Endpoint:
    """How ``module`` comes from z_0 to z_1: a teacher by steps of ``solver`` (where no number is
    named 10 of Euler's, one of any other), a student along its schedule, a regression network at
    once. Steps of a teacher that was not trained up to t = 1 are FlowSE's: equal ones to there, and
    one to 1.
    """
    if role == "student":
        run = partial(_sample, module)
        run.start = module.schedule[0]  # type: ignore[attr-defined, operator, index]
        return run
    if role == "teacher":
        facts = own_facts(module)

        def grid(steps: Steps | None) -> Steps:
            steps = steps or (facts.steps if solver == "euler" else 1)
            return facts.grid(steps) if isinstance(steps, int) else steps

        return lambda z_0, cond, steps: solve(
            lambda z, t: module(z, t, cond), z_0, grid(steps), solver
        )
    return lambda z_0, cond, steps: estimate(module, task.path, cond)


def _sample(
    student: nn.Module, z_0: Tensor, cond: Mapping[str, Tensor], steps: Steps | None
) -> Tensor:
    return sample(student, z_0, cond, steps)  # type: ignore[arg-type]


@torch.no_grad()
def restore(
    task: Restoration,
    model: Endpoint,
    degraded: Tensor,
    steps: Steps | None = None,
    seed: int = 0,
    index: int = 0,
    frame: int = 0,
    gain: Tensor | None = None,
    text: str | None = None,
) -> Tensor:
    """Degraded waveform (s,) to restored (s,), at the same level, on the same device.

    The prior's noise is a function of (seed, index, number of the frame) and of nothing else:
    systems are compared from the same noise, and a block of a long recording gets the noise that
    the whole recording would have there.

    Args:
        index: of the utterance. frame: number of the first frame, for a block of a longer
            recording.
        gain: (1, 1) level normalisation; default that of ``degraded``, which a block does not know.
        text: of the utterance, for tasks that read one (``text_of``).
    """
    gain = task.gain(degraded[None]) if gain is None else gain
    return _restored(
        task,
        model,
        [degraded],
        [gain],
        [condition(task, degraded[None] * gain, text)],
        steps,
        seed,
        index,
        frame,
    )[0]


@torch.no_grad()
def restore_batch(
    task: Restoration,
    model: Endpoint,
    waves: Sequence[Tensor],
    gains: Sequence[Tensor],
    steps: Steps | None,
    seed: int,
) -> list[Tensor]:
    """``restore`` of several waveforms at once, each as if it were alone.

    Raises:
        ValueError: waveforms whose features have different numbers of frames; padding them would
            change what the network sees.
    """
    conds = [condition(task, wave[None] * gain) for wave, gain in zip(waves, gains, strict=True)]
    if len({cond["y"].shape for cond in conds}) > 1:
        raise ValueError(
            f"waveforms of different numbers of frames: {sorted({cond['y'].shape[-1] for cond in conds})}"
        )
    return _restored(task, model, waves, gains, conds, steps, seed, 0, 0)


def _restored(
    task: Restoration,
    model: Endpoint,
    waves: Sequence[Tensor],
    gains: Sequence[Tensor],
    conds: Sequence[Mapping[str, Tensor]],
    steps: Steps | None,
    seed: int,
    index: int,
    frame: int,
) -> list[Tensor]:
    cond = {key: torch.cat([one[key] for one in conds]) for key in conds[0]}
    _, channels, freqs, frames = cond["y"].shape
    numbers = torch.arange(frame, frame + frames)
    eps = noise(
        seed, numbers, f"restore/{index}", (channels, freqs), device=waves[0].device
    ).permute(1, 2, 0)[None]
    start = (
        float(steps[0])
        if isinstance(steps, Sequence)
        else getattr(model, "start", 0.0)
        if steps is None
        else 0.0
    )
    z_1 = model(task.path.prior(cond, eps.expand_as(cond["y"]), start), cond, steps)
    found = zip(z_1, waves, gains, strict=True)
    return [(task.waveform(one[None], wave.shape[-1]) / gain)[0] for one, wave, gain in found]


def condition(task: Restoration, wave: Tensor, text: str | None = None) -> dict[str, Tensor]:
    """``task.condition`` of a waveform (b, s) at the task's level, with its text where the task
    reads one.
    """
    return task.condition(wave, text)


def text_of(task: Restoration, utterance: Mapping[str, Any]) -> str | None:
    """The text of an utterance of ``data.open_eval`` as the task wants it; None where it wants
    none.

    Raises:
        UserError: the task wants one, and the utterance has none.
    """
    if not task.needs_text:
        return None
    if not utterance.get("text"):
        raise UserError(
            f"{utterance['name']}: has no text for {task.config.name}; add it to transcripts.tsv (path, speaker, text)"
        )
    config: Any = task.config
    return prepared([str(utterance["text"])], config)[0]


def judged(task: Restoration, estimate: Any, clean: Any) -> tuple[Any, ...]:
    """What metrics compare of a whole utterance: (estimate, clean), and for Mel tasks their
    generated parts and the prompt.
    """
    return (estimate, clean) if task is None else task.judged(estimate, clean)
