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
    """The whole chain on the embedded corpus in minutes: teacher, student, search, evaluation; ends with a table, a figure, WAV files."""

    out: str = "runs/demo"
    """Folder of everything; a demo that was stopped goes on where it was."""
    minutes: float = 9.0
    """Time for all of it; how far the training comes depends on the machine."""
    task: Literal["vocode", "enhance"] = "vocode"
    sample_rate: int = 8000
    """Hz: 16000 or 8000."""
    data: Corpus = Corpus(crop_s=1.5)
    network: CompactSizes = field(default_factory=CompactSizes)


BATCH = 8
OUTSIDE = 1.3  # minutes for corpus, search and evaluation on two cores
TEACHER_SHARE = 0.62  # of the training time


def run(command: Demo) -> list[dict[str, Any]]:
    """Run the chain; returns the rows of the table.

    Raises:
        UserError: bad options, or espeakng-loader is missing. Interrupted: stopped by a signal, after saving.
    """
    from mfdistill.commands import evaluate, os3_search, student_distill, teacher_train
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    main = int(os.environ.get("RANK", "0")) == 0
    if command.minutes <= OUTSIDE:
        raise UserError(f"--minutes {command.minutes:g}: the chain around the training takes {OUTSIDE} minutes; give more")
    began = time.monotonic()
    out = Path(command.out)
    plan = _plan(command)

    def training(name: str, steps: int, lr: float) -> TrainConfig:
        return TrainConfig(
            out=str(out / name), steps=steps, batch_size=BATCH, lr=lr, warmup=min(100, steps // 5), ema_decay=0.995,
            valid_every=0, save_every=200, log_every=max(1, steps // 20), resume=True,
        )  # fmt: skip

    valid = ValidOptions(valid_files=4, valid_metrics=("pesq",))
    steps = (
        ("1/4 teacher", lambda: teacher_train.run(
            TeacherTrain(command.task, command.sample_rate, data=command.data, training=training("teacher", plan["teacher"], 2e-3),
                         valid=replace(valid, valid_nfe=(1, 10)), network=command.network))),
        ("2/4 student", lambda: student_distill.run(
            StudentDistill(str(out / "teacher"), data=command.data, training=training("student", plan["student"], 1e-3),
                           integral=IntegralConfig(interval=IntervalConfig(p_full=0.3, p_equal=0.1)),
                           valid=replace(valid, valid_nfe=(1, 2))))),
        ("3/4 O3S search", lambda: os3_search.run(
            OS3Search(str(out / "student"), data=command.data, search=SearchConfig(nfe=2, metric="pesq", limit=6, iterations=4)))),
    )  # fmt: skip
    for title, step in steps:
        if main:
            say(f"--- {title} ({(time.monotonic() - began) / 60:.1f} min so far)")
        step()
    if main:
        say(f"--- 4/4 evaluation ({(time.monotonic() - began) / 60:.1f} min so far)")
    rows = evaluate.run(
        Evaluate(str(out / "student"), str(out / "teacher"), out=str(out / "evaluation"), limit=8, audio=2, data=command.data,
                 metrics=("pesq", "estoi", "lsd", "spksim"))
    )  # fmt: skip
    if main:
        say(f"done in {(time.monotonic() - began) / 60:.1f} min; see {out}/evaluation/quality.png, hear {out}/evaluation/audio")
    return rows


def _plan(command: Demo) -> dict[str, int]:
    """Updates of teacher and student that fit into the time: measured once and kept in ``plan.json``, so that a stopped demo goes on."""
    import json

    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    from mfdistill.checkpoint import write_json
    from mfdistill.config import to_dict
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    file = Path(command.out) / "plan.json"
    options = {key: value for key, value in to_dict(command).items() if key != "out"}
    if file.is_file():
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: damaged ({error}); remove the folder {command.out}") from error
        if known["options"] != options:
            raise UserError(f"{command.out}: holds a demo with other options; name another --out")
        return known["steps"]
    accelerator = Accelerator()
    teacher_s, student_s = _seconds_per_update(command, accelerator)
    budget = 60 * (command.minutes - OUTSIDE)
    steps = {
        "teacher": max(20, round(TEACHER_SHARE * budget / teacher_s)),
        "student": max(10, round((1 - TEACHER_SHARE) * budget / student_s)),
    }
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(file, {"options": options, "steps": steps, "seconds_per_update": [teacher_s, student_s]})
        say(f"{command.minutes:g} minutes on this machine: {steps['teacher']} updates of the teacher, {steps['student']} of the student")
    return broadcast_object_list([steps])[0]


def _seconds_per_update(command: Demo, accelerator: Any) -> tuple[float, float]:
    """Of teacher and student, the best of a few after a warm-up."""
    import torch

    from mfdistill.commands.options import task_config
    from mfdistill.data import open_train
    from mfdistill.data.batches import batches
    from mfdistill.distill.batch import make_batch
    from mfdistill.distill.objectives import CFMObjective, IntegralObjective
    from mfdistill.distill.setup import fit_network_config
    from mfdistill.networks import build_network
    from mfdistill.students import Student
    from mfdistill.tasks import get_task
    from mfdistill.teachers import CFMTeacher

    task = get_task(task_config(command.task, command.sample_rate, TeacherTrain().task_options))
    data = open_train(command.data, task.needs_noisy, task.sample_rate)
    device = accelerator.device
    network = build_network("compact", fit_network_config(task, data, command.network, count=1)).to(device)
    teacher = CFMTeacher(network, task)
    stream = batches(data, max(1, BATCH // accelerator.num_processes), num_workers=0)
    raws = [next(stream) for _ in range(5)]  # made before the clock runs: files are decoded once, and by a thread of their own
    times = []
    for objective in (CFMObjective(network, task.path), IntegralObjective(Student.from_teacher(teacher), teacher, task.path)):
        measured = []
        for raw in raws:
            start = time.perf_counter()
            loss, _ = objective(make_batch(task, raw, device))
            loss.backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            measured.append(time.perf_counter() - start)
        times.append(min(measured) * 1.1)  # the optimiser, the average, the logs
    return times[0], times[1]
