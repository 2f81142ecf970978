"""demo."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.search.config import SearchConfig


@dataclass(frozen=True)
class Demo:
    """The whole chain on the embedded corpus in minutes: teacher, student, search, evaluation; ends
    with a table, a figure, WAV files.
    """

    out: str = "runs/demo"
    """Folder of everything; a demo that was stopped goes on where it was."""
    minutes: float = 9.0
    """Time for all of it; how far the training comes depends on the machine."""
    task: Literal["vocode", "enhance"] = "vocode"
    sample_rate: int = 8000
    """Hz: 16000 or 8000."""
    data: Corpus = Corpus(crop_s=1.5)
    network: CompactSizes = field(default_factory=CompactSizes)


def run(command: Demo) -> list[dict[str, Any]]:
    """Run the chain; returns the rows of the table.

    Raises:
        UserError: bad options, or espeakng-loader is missing. Interrupted: stopped by a signal,
            after saving.
    """
    from mfdistill.commands import evaluate, os3_search, student_distill, teacher_train
    from mfdistill.commands.plan import AFTER_S, BATCH, BEFORE_S, make_plan, plan_student
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    least = (BEFORE_S + AFTER_S) / 60
    if command.minutes <= least:
        raise UserError(
            f"--minutes {command.minutes:g}: what surrounds the training takes {least:.1f} minutes; give more"
        )
    began = time.monotonic()
    out, data = Path(command.out), command.data
    teacher, student = str(out / "teacher"), str(out / "student")

    def tell(text: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            say(f"--- {(time.monotonic() - began) / 60:.1f} min: {text}")

    def training(folder: str, steps: int, lr: float) -> TrainConfig:
        return TrainConfig(
            out=folder, steps=steps, batch_size=BATCH, lr=lr, warmup=min(100, steps // 5), ema_decay=0.995,
            valid_every=0, save_every=200, log_every=max(1, steps // 20), resume=True,
        )  # fmt: skip

    valid = ValidOptions(valid_files=4, valid_metrics=("pesq",))
    plan = make_plan(command)
    tell(
        f"1 of 4, a teacher; {plan['steps']['teacher']} updates fit into {command.minutes:g} minutes on this machine"
    )
    teacher_train.run(
        TeacherTrain(
            task=command.task,
            sample_rate=command.sample_rate,
            data=data,
            training=training(teacher, plan["steps"]["teacher"], 2e-3),
            valid=replace(valid, valid_nfe=(1, 10)),
            network=command.network,
        )
    )
    plan = plan_student(command, plan, time.monotonic() - began)
    tell(f"2 of 4, its student: {plan['steps']['student']} updates")
    student_distill.run(
        StudentDistill(
            teacher=teacher,
            data=data,
            training=training(student, plan["steps"]["student"], 1e-3),
            valid=replace(valid, valid_nfe=(1, 2)),
            integral=IntegralConfig(interval=IntervalConfig(p_full=0.3, p_equal=0.1)),
        )
    )
    tell("3 of 4, O3S search")
    os3_search.run(
        OS3Search(
            student=student,
            data=data,
            search=SearchConfig(nfe=2, metric="pesq", limit=6, iterations=4),
        )
    )
    tell("4 of 4, evaluation")
    metrics = ("pesq", "estoi", "lsd", "spksim")
    results = str(out / "evaluation")
    rows = evaluate.run(
        Evaluate(
            student=student,
            teacher=teacher,
            out=results,
            limit=8,
            audio=2,
            data=data,
            metrics=metrics,
        )
    )
    tell(f"done; look at {results}/quality.png, listen to {results}/audio")
    return rows
