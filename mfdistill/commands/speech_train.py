"""teacher-train for Mel tasks: what is learnt from the corpus first (units or alphabet, Mel
statistics), and the frame network.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mfdistill.commands.options import Corpus
from mfdistill.commands.saved import recorded
from mfdistill.config import to_dict
from mfdistill.data.config import DataConfig
from mfdistill.networks.frames_config import FramesConfig, FramesSizes

if TYPE_CHECKING:
    from mfdistill.commands.teacher_train import TeacherTrain
    from mfdistill.distill.inference import Model
    from mfdistill.tasks import MelTask

MEL_TASKS = ("token2mel", "text2mel")
CROP_S = {"token2mel": 4.0, "text2mel": 8.0}


@dataclass(frozen=True)
class SpeechOptions:
    """Of token2mel and text2mel."""

    units: int = 1024
    """Discrete units of every level, learnt by k-means (token2mel); 31.25 of them make a second."""
    levels: int = 2
    """Each level says what those before it left."""
    text: Literal["characters", "phonemes"] = "characters"
    """Input of text2mel; phonemes by espeak-ng (extra demo)."""
    language: str = "en"
    """espeak-ng's name of the language, for phonemes."""
    prompt_s: float = 3.0
    """Of an utterance, the beginning that is given where systems are compared."""
    vocoder: str = "griffin-lim"
    """'griffin-lim', or the folder of a vocode model with the same Mel spectrogram; kept in
    config.json.
    """


def open_task(command: TeacherTrain, start: Model | None) -> tuple[MelTask, Corpus]:
    """The task with what the training split taught, or that of the model to ``start`` from, or of
    the run to be resumed, and the data with the task's crops.

    Raises:
        UserError: bad data or options.
    """
    from mfdistill.commands.options import task_config
    from mfdistill.commands.training import begun
    from mfdistill.data.speech import learn_task
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.tasks import get_task, read_task_config

    if command.objective != "cfm" or command.causal:
        raise UserError(
            f"--task {command.task}: is trained with --objective cfm, not causal; leave the others out"
        )
    data = command.data
    if data.crop_s == DataConfig.crop_s:
        data = replace(data, crop_s=CROP_S[command.task])
    training = command.training
    before = begun(training).get("task")
    if before is not None:
        config: Any = read_task_config(before, f"{training.out}: task")
    elif start is not None:
        config, vocoder, temperature = (
            start.task.config,
            command.speech.vocoder,
            command.task_options.temperature,
        )
        config = config if vocoder == SpeechOptions.vocoder else replace(config, vocoder=vocoder)
        config = config if temperature is None else replace(config, temperature=temperature)
    else:
        preset: Any = task_config(
            command.task, command.sample_rate, command.task_options, command.causal, command.framing
        )
        speech = command.speech
        config = replace(
            preset,
            unit_levels=speech.levels,
            text=speech.text,
            language=speech.language,
            prompt_s=speech.prompt_s,
            vocoder=speech.vocoder,
        )
        say(
            f"learning {f'{speech.levels} x {speech.units} units' if command.task == 'token2mel' else 'the alphabet'} from {data.source}"
        )
        config = learn_task(data, config, speech.units, training.seed)
    return get_task(config), data  # type: ignore[return-value]


def open_start(init: str, task: str) -> Model:
    """The teacher to start from.

    Raises:
        UserError: not a teacher of this task.
    """
    from mfdistill.distill.inference import open_model
    from mfdistill.errors import UserError

    start = open_model(init)
    if start.role != "teacher" or start.task.config.name != task:
        raise UserError(
            f"--init {init}: is a {start.role} of {start.task.config.name}; name a teacher of {task}"
        )
    return start


def frames_config(
    task: MelTask, sizes: FramesSizes, dataset: Any, residual_std: float | None = None
) -> FramesConfig:
    """Sizes completed by what follows from task and data. ``residual_std``: already measured (by
    the run that is resumed).
    """
    own = {item.name: getattr(sizes, item.name) for item in fields(FramesSizes)}
    fitted = FramesConfig(
        **own, mels=task.config.n_mels, vocabulary=task.vocabulary, speaker=task.speaker_dim
    )
    return (
        replace(fitted, coarse=True, residual_std=residual_std or coarse_std(task, dataset))
        if task.voiced
        else fitted
    )


def coarse_std(task: MelTask, dataset: Any, count: int = 4, batch_size: int = 16) -> float:
    """Deviation of standardised bands from their coarse spectrogram, over the generated frames of
    some training batches, to two digits.

    Args:
        dataset: ``data.speech.SpeechSet``.
    """
    from mfdistill.data.batches import batches

    error = size = 0.0
    stream = batches(dataset, global_batch=batch_size, num_workers=0)
    for _ in range(count):
        batch = task.batch(next(stream), "cpu")
        error += float(((batch["z_1"] - batch["cond"]["mu"]).square() * batch["loss_mask"]).sum())
        size += float(batch["loss_mask"].sum()) * task.config.n_mels
    return float(f"{(error / size) ** 0.5:.2g}")


def run(command: TeacherTrain) -> Path:
    """Train a Mel teacher as ``command`` says; returns the run's folder (errors as
    ``teacher_train.run``).
    """
    import torch

    from mfdistill.commands.training import launch, measured
    from mfdistill.data.speech import SpeechSet
    from mfdistill.distill.objectives import CFMObjective
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.networks import build_network
    from mfdistill.search.cache import digest_tensors

    training = command.training
    accelerator = make_accelerator(training)
    start = None if command.init is None else open_start(command.init, command.task)
    with accelerator.main_process_first():
        task, data = open_task(command, start)
        dataset = SpeechSet(data, task)
    if start is None:
        sizes = frames_config(task, command.frames, dataset, measured(training))
        torch.manual_seed(training.seed)
        network, parent = build_network("frames", sizes), None
        description = {"name": "frames", "config": to_dict(sizes)}
    else:
        network, description = start.module, dict(start.config["network"])
        parent = {"init": command.init, "sha256": digest_tensors(network.state_dict())}
    model_config = {
        **recorded(command),
        "role": "teacher",
        "task": to_dict(task.config),
        "network": description,
        "objective": {
            "name": "cfm",
            "times": to_dict(command.times),
            "predict": command.predict,
        },
        "schedule": None,
        "parent": parent,
        "data": to_dict(data),
        "valid": to_dict(command.valid),
    }
    objective = CFMObjective(network, task.path, command.times, training.seed, command.predict)
    after = f"student-distill --teacher {training.out}"
    return launch(
        objective, task, dataset, data, training, command.valid, model_config, accelerator, after
    )
