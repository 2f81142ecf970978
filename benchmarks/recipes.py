"""How benchmarks train each kind of model on each task: every row of every table by these calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from record import HERE

from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.student_finish import StudentFinish
from mfdistill.commands.student_finish import run as student_finish
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.distill.finishing.config import CriticConfig, DmdConfig, FinishConfig
from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig, TimeConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.networks.frames_config import FramesSizes

Train = Callable[[TrainConfig], Any]
TaskName = Literal["vocode", "phase", "enhance", "bandwidth", "codec", "token2mel"]
NO_VALIDATION = ValidOptions(valid_files=0)
SETTINGS = TrainConfig(
    lr=1e-3, warmup=100, ema_decay=0.998, batch_size=8, valid_every=0, save_every=200, log_every=50
)


@dataclass(frozen=True)
class Setup:
    """A task as a benchmark trains and tests it."""

    task: TaskName
    sample_rate: int
    data: Corpus
    test: Corpus
    """Whose test split is scored."""
    numbers: TaskOptions = field(default_factory=TaskOptions)
    integral: IntegralConfig = field(default_factory=IntegralConfig)
    from_regression: bool = False
    """The teacher starts as a regression network, since most of its flow is the mean of the speech,
    and sees mostly early times, where all that is uncertain is decided.
    """
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    network: CompactSizes = field(default_factory=CompactSizes)
    frames: FramesSizes = field(default_factory=FramesSizes)

    @property
    def is_mel(self) -> bool:
        return self.task == "token2mel"

    @property
    def label(self) -> str:
        """Of files and folders: the task, with the rate where that is not 16 kHz."""
        kilohertz = "" if self.sample_rate == 16000 else f"-{self.sample_rate // 1000}k"
        return self.task + kilohertz


# free phases: a spread that follows the magnitude, around zero; students learn the whole flow
FREE = IntegralConfig(targets_per_rollout=2, interval=IntervalConfig(p_full=0.7), spectral=0.1)
# from the input: such teachers are best after about two steps, so those are the target
NEAR = IntegralConfig(
    substeps=2, solver="euler", interval=IntervalConfig(p_full=0.75), spectral=0.02
)
MEL = IntegralConfig(targets_per_rollout=3, interval=IntervalConfig(p_full=0.5))
MAGNITUDE = TaskOptions(sigma_0=1.0, prior_mean="zero", prior_shape="magnitude")


def setup_of(task: TaskName, sample_rate: int, data: str, crop_s: float = 1.0) -> Setup:
    """The usual one of a task on a corpus."""
    corpus = Corpus(source=data, crop_s=4.0 if task == "token2mel" else crop_s)
    plain = Setup(task, sample_rate, corpus, corpus)
    if task == "token2mel":
        vocoder = str(HERE / "models" / "vocode-finished")
        frames = FramesSizes(channels=160, blocks=6, attention=3)
        numbers = TaskOptions(temperature=0.4)
        return replace(
            plain,
            numbers=numbers,
            integral=MEL,
            speech=SpeechOptions(vocoder=vocoder),
            frames=frames,
        )
    if task in ("vocode", "phase"):
        return replace(plain, numbers=MAGNITUDE, integral=FREE)
    return replace(plain, integral=NEAR, from_regression=True)


def base(setup: Setup) -> TeacherTrain:
    """teacher-train with the setup's task, data and networks."""
    return TeacherTrain(
        task=setup.task,
        sample_rate=setup.sample_rate,
        data=setup.data,
        valid=NO_VALIDATION,
        task_options=setup.numbers,
        speech=setup.speech,
        network=setup.network,
        frames=setup.frames,
    )


def teacher(setup: Setup, start: Path | None = None) -> Train:
    """A flow, from random weights or, where the setup says so, from the regression ``start``."""
    if start is not None:
        times = TimeConfig("logit-normal", -2.0, 1.5)
        return lambda settings: teacher_train(
            replace(base(setup), init=str(start), times=times, training=settings)
        )
    return lambda settings: teacher_train(
        replace(base(setup), training=replace(settings, lr=2 * settings.lr))
    )


def continued(setup: Setup, start: Path) -> Train:
    """A flow trained on as it was."""
    times = TimeConfig("logit-normal", -2.0, 1.5) if setup.from_regression else TimeConfig()
    return lambda settings: teacher_train(
        replace(base(setup), init=str(start), times=times, training=settings)
    )


def regression(setup: Setup, like: Path | None = None) -> Train:
    """A network that answers at once, by the mean square of features. Of Mel tasks: the network of
    the teacher ``like``, with random weights.
    """
    if setup.is_mel:
        assert like is not None
        return finished(
            setup, "teacher", like, FinishConfig(nfe=(1,), features=1.0), random_weights=True
        )
    return lambda settings: teacher_train(
        replace(base(setup), objective="regression", training=replace(settings, lr=2 * settings.lr))
    )


def student(
    setup: Setup, of: Path, objective: Literal["integral", "meanflow"] = "integral"
) -> Train:
    """A student of a teacher."""
    return lambda settings: student_distill(
        StudentDistill(
            teacher=str(of),
            objective=objective,
            data=setup.data,
            valid=NO_VALIDATION,
            integral=setup.integral,
            meanflow=MeanFlowConfig(p_full=0.25),
            training=replace(settings, batch_size=max(2, settings.batch_size * 3 // 4)),
        )
    )


def finished(
    setup: Setup,
    role: Literal["student", "teacher", "regression"],
    start: Path,
    config: FinishConfig,
    critics: float = 0.0,
    random_weights: bool = False,
    matching: float = 0.0,
) -> Train:
    """student-finish of a start; ``critics``: their weight, learning alone for the first tenth,
    with a lower learning rate of the model; ``matching``: the weight of distribution matching. A
    start that keeps half of its weights learns as fast as random ones.
    """
    anew = not (critics or matching or config.temperature or setup.is_mel or setup.from_regression)
    faster = 2.0 if anew or random_weights else 0.3 if critics else 1.0

    def train(settings: TrainConfig) -> Any:
        where: dict[str, Any] = {role: str(start)}
        tenth = settings.steps // 10
        critic = CriticConfig(weight=critics, warmup=min(300, tenth), ramp=tenth)
        return student_finish(
            StudentFinish(
                **where,
                random=random_weights,
                finish=config,
                critic=critic,
                dmd=DmdConfig(weight=matching, warmup=min(100, tenth)),
                data=setup.data,
                valid=NO_VALIDATION,
                training=replace(settings, lr=faster * settings.lr),
            )
        )

    return train
