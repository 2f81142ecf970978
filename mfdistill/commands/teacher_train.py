"""teacher-train."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import (
    Corpus,
    TaskOptions,
    ValidOptions,
    task_config,
)
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.config import from_dict, to_dict
from mfdistill.data.config import DataConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.flow.config import TimeConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.networks.frames_config import FramesSizes
from mfdistill.networks.sizes import Backbone, UNetSizes

if TYPE_CHECKING:
    from torch import nn

    from mfdistill.data.batches import Rows
    from mfdistill.distill.opening import Model
    from mfdistill.tasks import Restoration, TaskConfig


@dataclass(frozen=True)
class TeacherTrain:
    """Train a flow-matching teacher on a folder of speech (or, for comparison, a regression network
    of the same size).
    """

    task: str = "vocode"
    """vocode, enhance, phase, dereverb, codec, bandwidth, token2mel, text2mel, or one of --extend:
    Mel spectrogram to speech, noisy to clean speech, STFT magnitudes to speech, reverberant to dry,
    coded to what was coded, or band-limited to full-band speech, speech units or text (with a
    prompt) to a Mel spectrogram.
    """
    sample_rate: int = 16000
    """Hz, from 8000 (at a fraction of the cost) to 48000; recordings are resampled to it."""
    causal: bool = False
    """Frames and network see nothing later, so that the model streams (see mfdistill stream)."""
    framing: Literal["32/16", "16/8", "40/20"] | None = None
    """Window and hop in milliseconds; a causal model's total latency is their sum. By default 40/20
    for codec, 32/16 for other tasks.
    """
    spread: Literal["preset", "data"] = "preset"
    """'data' measures the prior's spread on the training data (Stream.FM's rule) where --sigma-0
    does not give it: one number, or with --prior-shape profile (bandwidth's) one for every
    frequency.
    """
    objective: Literal["cfm", "regression"] = "cfm"
    """'regression' predicts the clean features at once, without noise: the baseline of evaluate."""
    spectral: float = 0.0
    """Weight of a magnitude loss in the objective 'regression', as --integral.spectral for
    students.
    """
    predict: Literal["velocity", "data"] = "velocity"
    """What the errors of a flow are measured in: its velocity, or the data estimate that this
    amounts to, which asks less near the data and does not chase silence. The network stays one of
    the velocity.
    """
    quiet: Annotated[float, tyro.conf.arg(name="quiet-bins")] = 0.0
    """Power by which quiet bins weigh more in a flow's loss, (|x|^2 + floor^2)^-quiet."""
    predictor: str | None = None
    """Folder of a regression network of the same task (or of a model that has one) that stands,
    frozen, in front of the flow: the flow starts around its estimate and sees it beside the input.
    """
    init: str | None = None
    """Folder of a checkpoint to start from instead of random weights (its network is used)."""
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    data: Corpus = field(default_factory=Corpus)
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(out="runs/teacher")
    )
    valid: OmitArgPrefixes[ValidOptions] = field(
        default_factory=lambda: ValidOptions(valid_nfe=(1, 10))
    )
    backbone: Backbone = "compact"
    """Network: compact (sizes in 'network'), or NCSN++, DCUNet or causal NCSN++ (sizes in
    'unet').
    """
    network: CompactSizes = field(default_factory=CompactSizes)
    unet: UNetSizes = field(default_factory=UNetSizes)
    times: TimeConfig = field(default_factory=TimeConfig)
    task_options: OmitArgPrefixes[TaskOptions] = field(default_factory=TaskOptions)
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    frames: FramesSizes = field(default_factory=FramesSizes)
    """Network of token2mel and text2mel (the others have 'network')."""


def run(command: TeacherTrain) -> Path:
    """Train as ``command`` says; returns the run's folder.

    Raises:
        UserError: bad options or data. Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.commands.predictor import open_predictor
    from mfdistill.commands.training import Work, launch
    from mfdistill.data.open import open_task_train
    from mfdistill.distill.objectives import CFMObjective, RegressionObjective
    from mfdistill.distill.opening import open_audio_model
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.distill.setup import fit_task
    from mfdistill.search.cache import digest_tensors
    from mfdistill.tasks import TASKS, get_task

    if command.task not in TASKS:
        raise UserError(f"--task {command.task}: unknown; this version has: {', '.join(TASKS)}")
    speech = TASKS[command.task][0].rows == "speech"
    check(command, speech)
    training, data = command.training, command.data
    accelerator = make_accelerator(training)
    crop_s = TASKS[command.task][0].crop_s
    if crop_s is not None and data.crop_s == DataConfig.crop_s:
        command = replace(command, data=(data := replace(data, crop_s=crop_s)))
    start = None if command.init is None else open_audio_model(command.init)
    if start is not None and start.role == "student":
        raise UserError(
            f"--init {command.init}: holds a student; name a teacher or a regression network"
        )
    front = command.predictor is not None
    preset = task_config(
        command.task,
        command.sample_rate,
        command.task_options,
        command.causal,
        command.framing,
        front,
    )
    with accelerator.main_process_first():
        if speech:
            task = get_task(speech_config(command, preset, start))
            predictor = None
        else:
            preset = fit_task(preset, command.backbone)
            predictor = open_predictor(str(command.predictor), preset) if front else None
            task = get_task(preset, predictor)
        dataset = open_task_train(data, task)
        rows = cast("Rows", dataset)
    if command.spread == "data":
        given = command.task_options.sigma_0 is not None
        task = get_task(spread_of(training, task, rows, given), predictor)
    if start is None:
        network, description = fresh(command, task, rows, speech)
        parent = None
    else:
        check_start(command, start, task)
        network, description = start.module, dict(start.config["network"])
        parent = {"init": command.init, "sha256": digest_tensors(network.state_dict())}
    loss = {"predict": command.predict, **({} if speech else {"quiet": command.quiet})}
    if command.objective == "regression":
        objective = RegressionObjective(network, task.path, task, command.spectral)
        told = {"name": "regression", "spectral": command.spectral}
    else:
        objective = CFMObjective(network, task.path, command.times, training.seed, **loss)
        told = {"name": "cfm", "times": to_dict(command.times), **loss}
    role = "regression" if command.objective == "regression" else "teacher"
    sections = {
        "role": role,
        "task": to_dict(task.config),
        "network": description,
        "objective": told,
        "schedule": None,
        "parent": parent,
        **({} if predictor is None else {"predictor": predictor.description}),
    }
    after = "evaluate --regression" if role == "regression" else "student-distill --teacher"
    work = Work(objective, task, dataset, sections, f"{after} {training.out}")
    return launch(command, work, accelerator)


def check(command: TeacherTrain, speech: bool) -> None:
    """Options that exclude each other; ``speech``: of a task of generated speech."""
    if command.objective == "regression" and (command.predict != "velocity" or command.quiet):
        raise UserError("--predict, --quiet-bins: belong to --objective cfm; leave them out")
    if command.quiet and speech:
        raise UserError("--quiet-bins: weighs bins of spectra, not Mel values; leave it out")
    if command.spectral and command.objective != "regression":
        raise UserError(
            "--spectral: belongs to --objective regression; for a student it is --integral.spectral"
        )
    if command.predictor is not None and (command.objective == "regression" or speech):
        raise UserError(
            "--predictor: stands in front of a restoration task's flow; not with --objective regression, token2mel or text2mel"
        )
    if speech and (command.objective != "cfm" or command.causal):
        raise UserError(
            f"--task {command.task}: is trained with --objective cfm, not causal; leave the others out"
        )


def speech_config(command: TeacherTrain, preset: TaskConfig, start: Model | None) -> TaskConfig:
    """The numbers of a task of generated speech: those of the run to be resumed, of the model to
    ``start`` from, or learnt.
    """
    from mfdistill.commands.begun import begun
    from mfdistill.commands.speech_train import learnt_task, started_task
    from mfdistill.tasks import read_task_config

    training, speech = command.training, command.speech
    before = begun(training).get("task")
    if before is not None:
        return read_task_config(before, f"{training.out}: task")
    if start is None:
        return learnt_task(preset, speech, command.data, training.seed)  # type: ignore[arg-type]
    if start.role != "teacher" or start.task.config.name != command.task:
        raise UserError(
            f"--init {command.init}: is a {start.role} of {start.task.config.name}; name a teacher of {command.task}"
        )
    temperature = command.task_options.temperature
    return started_task(start.task.config, speech.vocoder, temperature)


def check_start(command: TeacherTrain, start: Model, task: Restoration) -> None:
    """See that a model to start from has the task's features and predictor."""
    from mfdistill.commands.same import same_task

    if start.task.predictor is not None and task.predictor is None:
        raise UserError(
            f"--init {command.init}: has a predictor in front of it; add --predictor {command.init}"
        )
    if start.task.predictor is None and task.predictor is not None:
        raise UserError(
            f"--init {command.init}: was trained without a predictor; name a model that has one, or leave --init out"
        )
    if task.restores:
        same_task(task, start.task, f"--init {command.init}")


def fresh(
    command: TeacherTrain, task: Restoration, dataset: Rows, speech: bool
) -> tuple[nn.Module, dict[str, object]]:
    """A network with random weights, sized by task and data, and its section of ``config.json``."""
    import torch

    from mfdistill.commands.begun import measured
    from mfdistill.commands.speech_train import frames_config
    from mfdistill.distill.setup import fit_network
    from mfdistill.networks import build_network

    training = command.training
    name = "frames" if speech else command.backbone
    if speech:
        sizes = frames_config(task, command.frames, dataset, measured(training))  # type: ignore[arg-type]
    else:
        wanted = replace(command.network, causal=command.network.causal or command.causal)
        sizes = fit_network(task, dataset, name, wanted, command.unet, measured(training))
    torch.manual_seed(training.seed)
    return build_network(name, sizes), {"name": name, "config": to_dict(sizes)}


def spread_of(training: TrainConfig, task: Restoration, dataset: Rows, given: bool) -> TaskConfig:
    """The task with its prior's spread measured on the data, or as the run to be resumed has
    measured it.

    Raises:
        UserError: a spread was given too.
    """
    from mfdistill.commands.begun import begun
    from mfdistill.distill.logs import say
    from mfdistill.distill.spread import measure_spread
    from mfdistill.tasks import TaskConfig

    if given:
        raise UserError("--sigma-0 and --spread data exclude each other: give one of them")
    before = begun(training).get("task")
    if before is not None:
        return from_dict(TaskConfig, before, f"{training.out}: task")
    found = measure_spread(task, dataset)
    profile = (
        f", profile {min(found.prior_profile):g} to {max(found.prior_profile):g}"
        if found.prior_profile
        else ""
    )
    say(f"spread measured on the data: sigma_0 {found.sigma_0:g}{profile}")
    return found
