"""teacher-train."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import (
    Corpus,
    TaskOptions,
    ValidOptions,
    task_config,
)
from mfdistill.commands.saved import recorded
from mfdistill.commands.speech_train import MEL_TASKS, SpeechOptions
from mfdistill.config import from_dict, to_dict
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import TimeConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.networks.frames_config import FramesSizes
from mfdistill.networks.sizes import Backbone, UNetSizes

if TYPE_CHECKING:
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
    quiet: float = 0.0
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
    from mfdistill.errors import UserError
    from mfdistill.tasks import TASKS

    if command.objective == "regression" and (command.predict != "velocity" or command.quiet):
        raise UserError("--predict, --quiet: belong to --objective cfm; leave them out")
    if command.quiet and command.task in MEL_TASKS:
        raise UserError("--quiet: weighs bins of spectra, not Mel values; leave it out")
    if command.spectral and command.objective != "regression":
        raise UserError(
            "--spectral: belongs to --objective regression; for a student it is --integral.spectral"
        )
    if command.predictor is not None and (
        command.objective == "regression" or command.task in MEL_TASKS
    ):
        raise UserError(
            "--predictor: stands in front of a restoration task's flow; not with --objective regression, token2mel or text2mel"
        )
    if command.task in MEL_TASKS:
        from mfdistill.commands.speech_train import run as run_mel

        return run_mel(command)
    if command.task not in TASKS:
        raise UserError(f"--task {command.task}: unknown; this version has: {', '.join(TASKS)}")
    import torch

    from mfdistill.commands.predictor import open_predictor
    from mfdistill.commands.training import launch, measured, same_task
    from mfdistill.data import open_train
    from mfdistill.distill.inference import open_model
    from mfdistill.distill.objectives import CFMObjective, RegressionObjective
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.distill.setup import fit_network, fit_task
    from mfdistill.networks import build_network
    from mfdistill.search.cache import digest_tensors
    from mfdistill.tasks import get_task

    training = command.training
    accelerator = make_accelerator(training)
    front = command.predictor is not None
    preset = fit_task(
        task_config(
            command.task,
            command.sample_rate,
            command.task_options,
            command.causal,
            command.framing,
            front,
        ),
        command.backbone,
    )
    predictor = None if command.predictor is None else open_predictor(command.predictor, preset)
    task = get_task(preset, predictor)
    parent: dict[str, Any] | None = None
    dataset = open_train(command.data, task.degradation, task.sample_rate)
    if command.spread == "data":
        task = get_task(
            spread_of(training, task, dataset, command.task_options.sigma_0 is not None), predictor
        )
    if command.init is not None:
        start = open_model(command.init)
        if start.role == "student":
            same_role(command.init)
        if start.task.predictor is not None and predictor is None:
            raise UserError(
                f"--init {command.init}: has a predictor in front of it; add --predictor {command.init}"
            )
        if start.task.predictor is None and predictor is not None:
            raise UserError(
                f"--init {command.init}: was trained without a predictor; name a model that has one, or leave --init out"
            )
        same_task(task, start.task, f"--init {command.init}")
        network, description = start.module, dict(start.config["network"])
        parent = {"init": command.init, "sha256": digest_tensors(network.state_dict())}
    else:
        wanted = replace(command.network, causal=command.network.causal or command.causal)
        sizes = fit_network(
            task, dataset, command.backbone, wanted, command.unet, measured(training)
        )
        torch.manual_seed(training.seed)
        network = build_network(command.backbone, sizes)
        description = {"name": command.backbone, "config": to_dict(sizes)}

    if command.objective == "regression":
        objective = RegressionObjective(network, task.path, task, command.spectral)
        told = {"name": "regression", "spectral": command.spectral}
    else:
        loss = {"predict": command.predict, "quiet": command.quiet}
        objective = CFMObjective(network, task.path, command.times, training.seed, **loss)
        told = {"name": "cfm", "times": to_dict(command.times), **loss}
    role = "regression" if command.objective == "regression" else "teacher"
    model_config = {
        **recorded(command),
        "role": role,
        "task": to_dict(task.config),
        "network": description,
        "objective": told,
        "schedule": None,
        "parent": parent,
        **({} if predictor is None else {"predictor": predictor.description}),
        "data": to_dict(command.data),
        "valid": to_dict(command.valid),
    }
    after = {"teacher": "student-distill --teacher", "regression": "evaluate --regression"}[
        role
    ] + f" {training.out}"
    return launch(
        objective,
        task,
        dataset,
        command.data,
        training,
        command.valid,
        model_config,
        accelerator,
        after,
    )


def same_role(init: str) -> None:
    """A student's network embeds two times; no plain network can start from it."""
    from mfdistill.errors import UserError

    raise UserError(f"--init {init}: holds a student; name a teacher or a regression network")


def spread_of(training: TrainConfig, task: Restoration, dataset: Any, given: bool) -> TaskConfig:
    """The task with its prior's spread measured on the data, or as the run to be resumed has
    measured it.

    Raises:
        UserError: a spread was given too.
    """
    from mfdistill.commands.training import begun
    from mfdistill.distill.logs import say
    from mfdistill.distill.spread import measure_spread
    from mfdistill.errors import UserError
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
