"""student-distill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.extend import objective_settings
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.saved import recorded
from mfdistill.commands.scratch import ScratchOptions
from mfdistill.commands.tts_options import GuidanceOptions, Preset
from mfdistill.config import to_dict
from mfdistill.data.tts_config import TTSOptions
from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.networks.lora_config import LoraConfig


@dataclass(frozen=True)
class StudentDistill:
    """Distil a teacher into a student that needs one to three network evaluations."""

    teacher: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|HUB-ID")] = None
    """The teacher's folder, or a checkpoint file of another system; without one, 'scratch' says
    what is trained.
    """
    kind: str | None = None
    """Kind of a checkpoint file that does not show it itself, such as flowse or sgmse."""
    preset: Preset | None = None
    """Defaults for a text-to-speech teacher: f5 is for 3 steps (--nfe 2 for two), cosyvoice2 (and
    3) for one; '-paper': with the paper's 16 Euler steps of the teacher instead of 4 midpoint
    steps.
    """
    recipe: str | None = None
    """A recipe's numbers for a text-to-speech teacher (mfdistill recipes lists them), in place of a
    preset.
    """
    sizes: str | None = None
    """JSON file with the sizes of another system's network, where they are not the published
    ones.
    """
    objective: str = "integral"
    """'integral' learns the teacher's displacements and needs no derivative; 'meanflow' learns the
    MeanFlow identity.
    """
    interval: Literal["mixed", "delta", "unit"] = "mixed"
    """How the end of the interval is embedded: 'mixed' with its beginning; 'delta', its length
    beside it as in MeanFlowSE; 'unit', both anew and smoothly, for derivatives of networks with
    fast time embeddings (the student then does not begin at the teacher).
    """
    causal: bool = False
    """The student sees no later frame, so that it streams, whatever its teacher sees (see mfdistill
    stream).
    """
    predictor: str | None = None
    """For --causal: folder of a causal regression network in the place of the teacher's predictor,
    where that sees later frames.
    """
    nfe: int = 1
    """Steps of the schedule that is saved with the student, equal ones; os3-search places them."""
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    checkpoint_activations: bool = False
    """Compute blocks again in the backward pass instead of keeping them: less memory, a third more
    time (text-to-speech networks).
    """
    lora: LoraConfig = field(default_factory=LoraConfig)
    plan: bool = False
    """Only tell what the distillation will need: memory, disk, and how many Mel frames fit into
    cards of 12, 24 and 80 GB. Nothing is loaded or written.
    """
    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)
    tts: TTSOptions = field(default_factory=TTSOptions)
    scratch: ScratchOptions = field(default_factory=ScratchOptions)
    data: Corpus = field(default_factory=Corpus)
    """By default what the teacher was trained on."""
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(out="runs/student", steps=3000, lr=5e-4)
    )
    valid: OmitArgPrefixes[ValidOptions] = field(
        default_factory=lambda: ValidOptions(valid_nfe=(1, 2))
    )
    integral: IntegralConfig = field(default_factory=IntegralConfig)
    meanflow: MeanFlowConfig = field(default_factory=MeanFlowConfig)
    own: tuple[str, ...] = ()
    """NAME=VALUE settings of an objective of --extend."""


def run(command: StudentDistill) -> Path:
    """Distil as ``command`` says; returns the run's folder.

    Raises:
        UserError: bad options, teacher or data. Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.commands.distill_checks import check_foreign, foreign_teacher
    from mfdistill.commands.distill_foreign import run_foreign
    from mfdistill.commands.recipe_table import check_recipe
    from mfdistill.commands.teacher_import import read_sizes
    from mfdistill.commands.training import launch
    from mfdistill.commands.tts_options import check_preset, check_unused
    from mfdistill.data.speech import open_task_train
    from mfdistill.distill.logs import say
    from mfdistill.distill.objectives import OBJECTIVES
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.distill.settings import check_run
    from mfdistill.search.cache import digest_tensors
    from mfdistill.students import Student
    from mfdistill.students.causal import causal_start
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.tasks import with_audio
    from mfdistill.teachers import load_teacher

    training = command.training
    if command.nfe < 1:
        raise UserError(f"--nfe {command.nfe}: must be at least 1")
    if command.predictor is not None and not command.causal:
        raise UserError(
            "--predictor: takes the place of a teacher's for --causal students; leave it out, or train a teacher with it"
        )
    if command.plan:
        from mfdistill.commands.memory_plan import plan

        plan(command)
        return Path(training.out)
    accelerator = make_accelerator(training)
    if command.teacher is None:
        return run_scratch(command, accelerator)
    check_run(training, accelerator.num_processes)
    if (foreign := foreign_teacher(command)) is not None:
        check_foreign(command, *foreign)
    teacher = load_teacher(command.teacher, command.kind, config=read_sizes(command.sizes))
    task = teacher.task
    if task is not None and task.config.name in SYSTEMS:
        return run_foreign(command, teacher, accelerator)
    check_preset(command.preset, None, command.teacher)
    check_recipe(command.recipe, None, command.teacher)
    check_unused({"tts": command.tts, "guidance": command.guidance}, command.teacher)
    if task is None:
        raise UserError(
            f"--teacher {command.teacher}: does not say its prior's spread; give it with --sizes FILE (JSON with sigma_y)"
        )
    parent = {
        "teacher": command.teacher,
        "kind": command.kind,
        "sha256": digest_tensors(teacher.network.state_dict()),
    }
    start = causal_start(teacher, _replaced(command, task)) if command.causal else teacher
    student = Student.from_teacher(
        start, command.nfe, parent, command.interval, adapter=command.lora
    )
    task = with_audio(start.task, str(command.teacher))
    dataset = open_task_train(command.data, task)
    settings: Any = objective_settings(command.objective, command, command.own)
    if (
        isinstance(settings, IntegralConfig)
        and settings.state == "data"
        and not teacher.facts.straight
    ):
        say(
            "integral.state: 'rollout', since this teacher's states do not lie on straight paths to the data"
        )
        settings = replace(settings, state="rollout")
    objective = OBJECTIVES[command.objective][1](
        student, teacher, task.path, settings, training.seed
    )
    model_config = {
        **recorded(command),
        **student.config,
        "objective": {"name": command.objective, **to_dict(settings)},
        "data": to_dict(command.data),
        "valid": to_dict(command.valid),
    }
    after = f"os3-search --student {training.out}"
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


def _replaced(command: StudentDistill, task: Any) -> Any:
    """The predictor that --predictor names instead of the teacher's."""
    from mfdistill.commands.predictor import open_predictor

    if command.predictor is None:
        return None
    if task.predictor is None:
        raise UserError(
            f"--predictor {command.predictor}: the teacher has none, so there is none to replace; leave it out"
        )
    return open_predictor(
        command.predictor, replace(task.config, stft=replace(task.config.stft, causal=True))
    )


def run_scratch(command: StudentDistill, accelerator: Any) -> Path:
    """The same without a teacher: the student learns from data alone (errors as ``run``)."""
    from mfdistill.commands.scratch import scratch_student
    from mfdistill.commands.training import launch
    from mfdistill.distill.objectives import MeanFlowObjective

    student, task, dataset = scratch_student(command)
    objective = MeanFlowObjective(student, None, task.path, command.meanflow, command.training.seed)
    model_config = {
        **recorded(command),
        **student.config,
        "objective": {"name": "meanflow", **to_dict(command.meanflow)},
        "scratch": to_dict(command.scratch),
        "data": to_dict(command.data),
        "valid": to_dict(command.valid),
    }
    after = f"os3-search --student {command.training.out}"
    return launch(
        objective,
        task,
        dataset,
        command.data,
        command.training,
        command.valid,
        model_config,
        accelerator,
        after,
    )
