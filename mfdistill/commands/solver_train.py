"""solver-train."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.config import to_dict
from mfdistill.distill.settings import TrainConfig
from mfdistill.search.config import SolverConfig


@dataclass(frozen=True)
class SolverTrain:
    """Learn a few-step Runge-Kutta solver for a teacher, whose network stays as it is; for
    --teacher-solver and --solver.
    """

    teacher: Annotated[str, tyro.conf.arg(metavar="FOLDER|FILE")]
    """The teacher's folder, or a checkpoint file of another system."""
    kind: str | None = None
    """Kind of a checkpoint file that does not show it itself, such as flowse or sgmse."""
    solver: OmitArgPrefixes[SolverConfig] = field(default_factory=SolverConfig)
    config: str | None = None
    """config.json of a run to repeat; the other options override it."""
    data: Corpus = field(default_factory=Corpus)
    """By default what the teacher was trained on."""
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(
            out="runs/solver",
            steps=1000,
            batch_size=8,
            lr=3e-3,
            warmup=0,
            weight_decay=0.0,
            ema_decay=0.9,
            valid_every=100,
            save_every=100,
        )
    )
    valid_files: int = 8
    """Utterances of the validation split that the loss is measured on; 0 is no validation."""

    @property
    def valid(self) -> ValidOptions:
        """The loss alone."""
        return ValidOptions(valid_files=self.valid_files, valid_nfe=(), valid_metrics=())


def run(command: SolverTrain) -> Path:
    """Train as ``command`` says; returns the run's folder.

    Raises:
        UserError: bad options, teacher or data. Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.commands.training import Work, launch
    from mfdistill.data.open import open_task_train
    from mfdistill.distill.processes import make_accelerator
    from mfdistill.errors import UserError
    from mfdistill.search.cache import digest_tensors
    from mfdistill.search.solver_train import SolverObjective, start
    from mfdistill.tasks import with_audio
    from mfdistill.teachers import load_teacher

    training = command.training
    accelerator = make_accelerator(training)
    teacher = load_teacher(command.teacher, command.kind)
    task = teacher.task
    if task is None:
        raise UserError(
            f"{command.teacher}: has no task of this program; name a folder that teacher-train wrote"
        )
    if not task.restores:
        raise UserError(
            f"--teacher {command.teacher}: makes Mel spectrograms ({task.config.name}); solvers are learnt behind teachers "
            "that restore recordings"
        )
    task = with_audio(task, command.teacher)
    if teacher.branches != 1:
        raise UserError(
            f"{command.teacher}: has guidance, which a solver is not learned through; load it with guidance strength 0"
        )
    solver = start(command.solver)
    if solver.b_raw.numel() != command.solver.nfe:
        raise UserError(
            f"--start {command.solver.start}: has {solver.b_raw.numel()} evaluations, --nfe says {command.solver.nfe}"
        )
    dataset = open_task_train(command.data, task)
    objective = SolverObjective(solver, teacher, task, command.solver, training.seed)
    sections = {
        "role": "solver",
        "task": to_dict(task.config),
        "solver": to_dict(command.solver),
        "objective": {"name": "solver"},
        "schedule": None,
        "parent": {
            "teacher": command.teacher,
            "kind": command.kind,
            "sha256": digest_tensors(teacher.network.state_dict()),
        },
    }
    after = f"evaluate --teacher {command.teacher} --teacher-solver {training.out}"
    return launch(command, Work(objective, task, dataset, sections, after), accelerator)
