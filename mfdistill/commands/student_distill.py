"""student-distill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.extend import objective_settings
from mfdistill.commands.options import Corpus, ValidOptions, read_sizes
from mfdistill.commands.scratch import ScratchOptions
from mfdistill.commands.tts_options import GuidanceOptions, Preset
from mfdistill.config import to_dict
from mfdistill.data.tts_config import TTSOptions
from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.plain import Section

if TYPE_CHECKING:
    from mfdistill.networks.predictor import Predictor
    from mfdistill.students import Student
    from mfdistill.systems.base import System
    from mfdistill.tasks import Task
    from mfdistill.teachers import Field


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
    from mfdistill.commands.training import Work, launch
    from mfdistill.data.open import open_task_train
    from mfdistill.distill.equip import ready_to_train
    from mfdistill.distill.objectives import OBJECTIVES
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.distill.settings import check_run
    from mfdistill.places import resolve

    training = command.training
    if command.nfe < 1:
        raise UserError(f"--nfe {command.nfe}: must be at least 1")
    if command.predictor is not None and not command.causal:
        raise UserError(
            "--predictor: takes the place of a teacher's for --causal students; leave it out, or train a teacher with it"
        )
    command.integral.check_adapter(command.lora.rank is not None)
    if command.plan:
        tell_plan(command)
        return Path(training.out)
    accelerator = make_accelerator(training)
    check_run(training, accelerator.num_processes)
    teacher = None if command.teacher is None else open_teacher(command)
    student = untaught(command) if teacher is None else taught(command, teacher)
    task = student.task
    assert task is not None
    settings = objective_settings(command.objective, command, command.own)
    if teacher is not None:
        settings = with_states(settings, teacher, command.tts.data_free)
        ready_to_train(
            task,
            teacher.network,
            teacher.facts,
            resolve(str(command.teacher)),
            accelerator.device,
            command.tts,
            command.guidance.range,
            training.seed,
        )
    if command.checkpoint_activations:
        from mfdistill.networks.recompute import recompute_activations

        recompute_activations(student.network)
    objective = OBJECTIVES[command.objective][1](
        student, teacher, task.path, settings, training.seed
    )
    spoken = task.rows == "utterances"
    sections = {
        **student.config,
        "objective": {"name": command.objective, **to_dict(settings)},
        **({"scratch": to_dict(command.scratch)} if teacher is None else {}),
        **({"tts": to_dict(command.tts), "guidance": to_dict(command.guidance)} if spoken else {}),
        **({"checkpoint_activations": True} if command.checkpoint_activations else {}),
    }
    work = Work(
        objective,
        task,
        open_task_train(command.data, task, command.tts, training.seed),
        sections,
        f"os3-search --student {training.out}",
        command.tts,
        "" if teacher is None else _guided(teacher, command.guidance.range),
    )
    if spoken and command.preset is None and training.lr > 1e-4 and accelerator.is_main_process:
        say_rate(training.lr, task.config.name)
    return launch(command, work, accelerator)


def open_teacher(command: StudentDistill) -> Field:
    """The teacher, under the guidance that is asked for; what is wrong with the options is told
    before gigabytes of weights are loaded.
    """
    from mfdistill.commands.memory_plan import speech_system
    from mfdistill.commands.recipe_table import check_recipe
    from mfdistill.commands.tts_options import check_preset, check_unused
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.teachers import load_teacher

    name = str(command.teacher)
    system, sizes = speech_system(name, command.kind, command.sizes)
    kind = None if system is None else system.name
    check_preset(command.preset, kind, name)
    check_recipe(command.recipe, kind, name)
    if system is None:
        labels = [own.label for own in SYSTEMS.values() if own.mel and own.read_teacher]
        check_unused({"tts": command.tts, "guidance": command.guidance}, name, labels)
    else:
        check_speech(command, system, sizes)
    teacher = load_teacher(name, command.kind, config=read_sizes(command.sizes))
    if teacher.task is None:
        raise UserError(
            f"--teacher {name}: does not say its prior's spread; give it with --sizes FILE (JSON with sigma_y)"
        )
    guidance = command.guidance
    teacher.guide_by(guidance.strength, guidance.range, guidance.rule)
    return teacher


def check_speech(command: StudentDistill, system: System, sizes: Section) -> None:
    """Options, data and vocabulary of a distillation from a text-to-speech flow.

    Raises:
        UserError: names the option or file, and the remedy.
    """
    from mfdistill.data.transcripts import Vocabulary, read_utterances
    from mfdistill.distill.equip import vocabulary_file
    from mfdistill.places import resolve

    options, guidance = command.tts, command.guidance
    if command.data.source == "embedded":
        raise UserError(
            f"--data: needed for a teacher of kind {system.name}: a folder of speech with texts or tokens "
            "(layout: docs/foreign-tts.md)"
        )
    if command.causal:
        raise UserError(
            "--causal: not for text-to-speech teachers; those that stream do so as they are (--tts.streaming-share)"
        )
    if command.objective == "integral" and command.integral.spectral:
        raise UserError(
            "--integral.spectral: compares waveforms, which this student does not make; leave it out"
        )
    if options.data_free and command.objective != "integral":
        raise UserError(
            f"--objective {command.objective}: needs recordings; with --tts.data-free take --objective integral"
        )
    if system.guidance is None and (guidance.strength or guidance.range):
        raise UserError(
            f"{command.teacher}: {system.label} was trained without a null condition, so guidance has no meaning; leave --guidance out"
        )
    texts = system.mel is not None and system.mel.reads == "text"
    if texts:
        table = int({**to_dict(system.published), **sizes}["text_num_embeds"])
        file = vocabulary_file(resolve(str(command.teacher)), options)
        Vocabulary.read(file).check(table)
    read_utterances(
        Path(command.data.source),
        options.transcripts,
        options.features,
        not options.data_free and (system.mel is None or system.mel.recordings),
        texts,
    )


def taught(command: StudentDistill, teacher: Field) -> Student:
    """The student that starts as ``teacher``."""
    from mfdistill.search.cache import digest_tensors
    from mfdistill.students import Student
    from mfdistill.students.causal import causal_start

    assert teacher.task is not None
    told = command.guidance.range
    parent = {
        "teacher": command.teacher,
        "kind": command.kind,
        "sha256": digest_tensors(teacher.network.state_dict()),
    }
    if teacher.task.rows == "utterances":
        parent |= {"guidance_strength": None if told else teacher.guidance_strength}
        parent |= {"sizes": command.sizes} if command.sizes else {}
    replaced = _replaced(command.predictor, teacher.task) if command.causal else None
    student = Student.from_teacher(
        causal_start(teacher, replaced) if command.causal else teacher,
        command.nfe,
        parent,
        command.interval,
        guidance_input=None if told is None else told[1],
        adapter=command.lora,
    )
    assert student.task is not None
    if (command.tts.mel_mean, command.tts.mel_std) != (TTSOptions.mel_mean, TTSOptions.mel_std):
        student.task = student.task.with_mel(command.tts.mel_mean, command.tts.mel_std)
    return student


def untaught(command: StudentDistill) -> Student:
    """The student without a teacher, which learns from data alone.

    Raises:
        UserError: an objective that needs a teacher.
    """
    from mfdistill.commands.scratch import scratch_student

    if command.objective != "meanflow" or not command.meanflow.teacher_free:
        raise UserError(
            "--teacher: name one; only --objective meanflow --meanflow.teacher-free does without"
        )
    return scratch_student(
        command.scratch,
        command.data,
        command.training,
        command.causal,
        command.nfe,
        command.interval,
    )


def with_states(settings: Any, teacher: Field, data_free: bool) -> Any:
    """The objective's settings with the states that teacher and data allow."""
    from mfdistill.distill.logs import say

    if not isinstance(settings, IntegralConfig) or settings.state != "data":
        return settings
    if not teacher.facts.straight:
        say(
            "integral.state: 'rollout', since this teacher's states do not lie on straight paths to the data"
        )
    return (
        replace(settings, state="rollout") if data_free or not teacher.facts.straight else settings
    )


def say_rate(lr: float, kind: str) -> None:
    """That a learning rate is high for a pretrained network."""
    from mfdistill.commands.recipe_table import preset_for
    from mfdistill.distill.logs import say

    name = preset_for(kind)
    fitting = f"--preset {name} takes" if name else "take for example"
    say(f"--lr {lr:g} is much for a pretrained network; {fitting} 2e-5")


def _guided(teacher: Field, told: tuple[float, float] | None) -> str:
    if told is not None:
        return f", guidance told, {told[0]:g} to {told[1]:g}"
    return f", guidance {teacher.guidance_strength:g}, learnt" if teacher.branches > 1 else ""


def _replaced(path: str | None, task: Task) -> Predictor | None:
    """The predictor that --predictor names instead of the teacher's."""
    from mfdistill.commands.predictor import open_predictor

    if path is None:
        return None
    if task.predictor is None:
        raise UserError(
            f"--predictor {path}: the teacher has none, so there is none to replace; leave it out"
        )
    return open_predictor(path, replace(task.config, stft=replace(task.config.stft, causal=True)))


def tell_plan(command: StudentDistill) -> None:
    """What the distillation will need.

    Raises:
        UserError: a teacher that is not a text-to-speech flow, or whose sizes are not known without
            its weights.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.commands.memory_plan import speech_system, tell_need
    from mfdistill.distill.memory import Setup
    from mfdistill.networks.build import network_name
    from mfdistill.places import resolve

    system, sizes = None, {}
    if command.teacher is not None:
        system, sizes = speech_system(command.teacher, command.kind, command.sizes)
    if system is None:
        raise UserError(
            "--plan: counts distillations of text-to-speech flows; name such a --teacher"
        )
    place = resolve(str(command.teacher))
    ours = (place / "config.json").is_file()
    if not ours and system.published is None:
        raise UserError(
            f"--plan: the sizes of {command.teacher} are in its weights; make a folder of it with "
            "teacher-import and name that"
        )
    strength = system.guidance if command.guidance.strength is None else command.guidance.strength
    network = load_config(place)["network"]["name"] if ours else network_name(system.published)
    integral = command.integral if command.objective == "integral" else IntegralConfig()
    setup = Setup(
        network,
        {key: value for key, value in sizes.items() if key != "weights"},
        2 if system.guidance is not None and strength else 1,
        command.training.mixed_precision != "no",
        command.checkpoint_activations,
        integral.targets_per_rollout,
        command.lora,
        integral.teacher_precision == "bf16",
        integral.teacher_rows,
        command.training.ema_on == "cpu",
        command.training.moments == "8bit",
    )
    tell_need(setup, command.tts.batch_frames)
