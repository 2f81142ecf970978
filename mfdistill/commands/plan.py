"""How many updates fit into the demo's time on this machine; kept in ``plan.json``, so that a
stopped demo goes on as it began.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mfdistill.checkpoint import load_config, write_json
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.reading import read_json

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import nn

    from mfdistill.commands.options import Corpus
    from mfdistill.networks.config import CompactSizes
    from mfdistill.tasks import Task

BATCH = 8
STUDENT_BATCHES = (8, 4, 2)  # fewer crops where the full batch would leave too few updates
TEACHER_SHARE = 0.62  # of the training time, unless the student needs more
LEAST_SHARE = 0.2
SLACK = 1.2  # on the planned time of a stage, before its deadline ends it
BEFORE_S, AFTER_S = 20.0, 90.0  # corpus; search and evaluation, on two cores
LEAST_S = 30.0  # of the student's training, however late it is
_MEASURE_S = 4.0
LEAST = {"teacher": 20, "student": 300}


class Chain(Protocol):
    """The demo's options."""

    @property
    def out(self) -> str: ...

    @property
    def minutes(self) -> float: ...

    @property
    def task(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def data(self) -> Corpus: ...

    @property
    def network(self) -> CompactSizes: ...


def make_plan(command: Chain, began: float | None = None) -> Plain:
    """``{"options", "threads", "seconds": {name: per update}, "steps": {name: updates}}``,
    measured, or as it was measured before; ``began``: ``time.monotonic()`` at the demo's start.

    Raises:
        UserError: the folder holds a demo with other options, or a damaged plan.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    file = Path(command.out) / "plan.json"
    options = {key: value for key, value in to_dict(command).items() if key != "out"}
    if file.is_file():
        plan = read_json(file, f"remove the folder {command.out}")
        if plan.get("options") != options:
            raise UserError(f"{command.out}: holds a demo with other options; name another --out")
    else:
        accelerator = Accelerator()
        threads, teacher_s, student_s = seconds_per_update(command, accelerator)
        spent_s = BEFORE_S if began is None else time.monotonic() - began
        training_s = max(LEAST_S, 60 * command.minutes - spent_s - AFTER_S)
        needed_s = LEAST["student"] * student_s * STUDENT_BATCHES[-1] / BATCH
        share = max(LEAST_SHARE, min(TEACHER_SHARE, 1 - needed_s / training_s))
        steps = {"teacher": max(LEAST["teacher"], round(share * training_s / teacher_s))}
        plan = {
            "options": options,
            "threads": threads,
            "seconds": {"teacher": teacher_s, "student": student_s},
            "steps": steps,
            "limit_s": {"teacher": SLACK * share * training_s},
        }
        plan = broadcast_object_list([plan])[0]
        if accelerator.is_main_process:
            write_json(file, plan)
    torch.set_num_threads(plan["threads"])
    return plan


def plan_student(command: Chain, plan: Plain, elapsed_s: float) -> Plain:
    """The plan with the student's updates, their batch and their deadline: what fits into the time
    left at the pace that the teacher really had, in the largest batch that leaves enough updates.
    """
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    if "student" in plan["steps"]:
        return plan
    done = load_config(Path(command.out) / "teacher")["training"]
    slower = 3600 * done["hours"] / done["step"] / plan["seconds"]["teacher"]
    left_s = 60 * command.minutes - AFTER_S - elapsed_s
    crop_s = slower * plan["seconds"]["student"] / BATCH  # seconds per crop
    fits = {batch: round(left_s / (crop_s * batch)) for batch in STUDENT_BATCHES}
    batch = next((b for b in STUDENT_BATCHES if fits[b] >= LEAST["student"]), STUDENT_BATCHES[-1])
    made = {
        "steps": {**plan["steps"], "student": max(LEAST["student"], fits[batch])},
        "batch": batch,
        "limit_s": {**plan["limit_s"], "student": max(left_s, LEAST_S)},
    }
    plan = broadcast_object_list([{**plan, **made}])[0]
    if Accelerator().is_main_process:
        write_json(Path(command.out) / "plan.json", plan)
    return plan


def seconds_per_update(command: Chain, accelerator: Accelerator) -> tuple[int, float, float]:
    """Threads that are fastest here (one, where other programs keep the cores busy), and seconds
    per update of teacher and student.
    """
    import torch

    from mfdistill.commands.options import TaskOptions, task_config
    from mfdistill.data import open_train
    from mfdistill.data.batches import batches
    from mfdistill.distill.objectives import CFMObjective, IntegralObjective
    from mfdistill.distill.setup import fit_network_config
    from mfdistill.networks import build_network
    from mfdistill.students import Student
    from mfdistill.tasks import get_task
    from mfdistill.teachers import Field

    task = get_task(task_config(command.task, command.sample_rate, TaskOptions()))
    data = open_train(command.data, task.degradation, task.sample_rate)
    network = build_network("compact", fit_network_config(task, data, command.network, count=1)).to(
        accelerator.device
    )
    teacher = Field(network, task)
    stream = batches(data, max(1, BATCH // accelerator.num_processes), num_workers=0)
    # made before the clock runs: files are decoded once, and by a thread of their own
    raws = [next(stream) for _ in range(4)]
    objectives = (
        CFMObjective(network, task.path),
        IntegralObjective(Student.from_teacher(teacher), teacher, task.path),
    )
    found = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        teacher_s, student_s = (
            _seconds(objective, task, raws, accelerator.device) for objective in objectives
        )
        found.append((teacher_s + student_s, threads, teacher_s, student_s))
    return min(found)[1:]


def _seconds(objective: nn.Module, task: Task, raws: list[Plain], device: torch.device) -> float:
    """Of one update, the best of a few after a warm-up."""
    import torch

    from mfdistill.distill.batch import make_batch

    measured = []
    for raw in raws:
        start = time.perf_counter()
        loss, _ = objective(make_batch(task, raw, device))
        loss.backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - start)
        if sum(measured) > _MEASURE_S:  # a busy machine has no time for more
            break
    return 1.1 * min(measured)  # the optimiser, the average, the logs
