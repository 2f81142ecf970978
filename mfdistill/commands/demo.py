"""demo."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.heartbeat import heartbeat
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig
from mfdistill.networks.config import CompactSizes
from mfdistill.plain import Plain
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
    """Hz, 8000 to 48000."""
    data: Corpus = Corpus(crop_s=1.5)
    network: CompactSizes = field(default_factory=CompactSizes)


def run(command: Demo) -> list[Plain]:
    """Run the chain; returns the rows of the table.

    Raises:
        UserError: bad options, or espeakng-loader is missing. Interrupted: stopped by a signal,
            after saving.
    """
    began, stage = time.monotonic(), ["getting ready"]

    def tell(text: str) -> None:
        stage[0] = text
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"--- {(time.monotonic() - began) / 60:.1f} min: {text}\n")
            sys.stderr.flush()

    def alive() -> str:
        return (
            f"    {(time.monotonic() - began) / 60:.1f} of {command.minutes:g} min: {stage[0]} ..."
        )

    tell(
        "a corpus is made on this machine, then a teacher, its student, the place of its steps and a page; "
        f"{command.minutes:g} minutes in all, into {command.out}"
    )
    quiet = os.environ.get("RANK", "0") != "0"
    with contextlib.nullcontext() if quiet else heartbeat(alive, every_s=5.0):
        return _chain(command, tell, began)


def _chain(command: Demo, tell: Callable[[str], None], began: float) -> list[Plain]:
    from mfdistill.commands import evaluate, os3_search, student_distill, teacher_train
    from mfdistill.commands.pages import FILE, write_report
    from mfdistill.commands.plan import AFTER_S, BATCH, BEFORE_S, depth, make_plan, plan_student
    from mfdistill.errors import UserError

    least = (BEFORE_S + AFTER_S) / 60
    if command.minutes <= least:
        raise UserError(
            f"--minutes {command.minutes:g}: what surrounds the training takes {least:.1f} minutes; give more"
        )
    out, data = Path(command.out), command.data
    teacher, student = str(out / "teacher"), str(out / "student")

    def training(folder: str, steps: int, lr: float, batch: int, limit_s: float) -> TrainConfig:
        return TrainConfig(
            out=folder, steps=steps, batch_size=batch, lr=lr, warmup=min(100, steps // 5), ema_decay=0.995,
            valid_every=0, save_every=200, log_every=max(1, steps // 40), resume=True, time_limit_hours=limit_s / 3600,
        )  # fmt: skip

    valid = ValidOptions(valid_files=4, valid_metrics=("pesq",))
    tell("corpus, and how fast this machine is")
    plan = make_plan(command, began)
    steps = plan["steps"]["teacher"]
    tell(f"1 of 4, a teacher: {steps} updates, at most {plan['limit_s']['teacher'] / 60:.1f} min")
    teacher_train.run(
        TeacherTrain(
            task=command.task,
            sample_rate=command.sample_rate,
            data=data,
            training=training(teacher, steps, 2e-3, BATCH, plan["limit_s"]["teacher"]),
            valid=replace(valid, valid_nfe=(1, 10)),
            network=command.network,
        )
    )
    plan = plan_student(command, plan, time.monotonic() - began)
    steps, batch = plan["steps"]["student"], plan["batch"]
    tell(
        f"2 of 4, its student: {steps} updates of {batch}, at most {plan['limit_s']['student'] / 60:.1f} min"
    )
    student_distill.run(
        StudentDistill(
            teacher=teacher,
            data=replace(data, crop_s=data.crop_s * plan["part"]),
            training=training(student, steps, 1e-3, batch, plan["limit_s"]["student"]),
            valid=replace(valid, valid_nfe=(1, 2)),
            integral=IntegralConfig(interval=IntervalConfig(p_full=0.3, p_equal=0.1)),
        )
    )
    level = depth(command, plan, time.monotonic() - began)
    tell("3 of 4, where two steps belong (O3S)")
    os3_search.run(
        OS3Search(
            student=student,
            data=data,
            search=SearchConfig(
                nfe=2, metric="pesq", limit=(2, 4, 6)[level], iterations=(1, 2, 4)[level]
            ),
        )
    )
    tell("4 of 4, evaluation")
    results = out / "evaluation"
    level = min(level, depth(command, plan, time.monotonic() - began + plan["after_s"] * 0.4))
    rows = evaluate.run(
        Evaluate(
            student=student,
            teacher=teacher,
            out=str(results),
            limit=(2, 4, 8)[level],
            teacher_nfe=((1, 10), (1, 5, 10), (1, 2, 5, 10, 20))[level],
            student_nfe=(1, 2) if level < 2 else (1, 2, 3),
            audio=2,
            data=data,
            metrics=("pesq", "estoi", "lsd", "spksim"),
        )
    )
    if os.environ.get("RANK", "0") == "0":
        write_report(out)
    tell(f"done; open {out / FILE} in a browser")
    return rows
