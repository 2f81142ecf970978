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
STUDENT_UPDATES = ((8, 1.0), (4, 1.0), (2, 1.0), (2, 0.5), (1, 0.5))
"""Crops of an update and their part of the full length: less where the full update would leave too
few of them.
"""
TEACHER_SHARE = 0.62  # of the training time, unless the student needs more
LEAST_SHARE = 0.15
RESERVE = 1.5  # on what the student's fewest updates take, beside the teacher
SLACK = 1.2  # on the planned time of a stage, before its deadline ends it
BEFORE_S, AFTER_S = 20.0, 90.0  # corpus; search and evaluation, on two idle cores
SLOWEST = 2.5  # a busy machine takes longer before and after too, up to so many times
LEAST_S = 30.0  # of the student's training, however late it is
_MEASURE_S = 2.0
_FEW = 2
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
    """``{"options", "threads", "after_s", "seconds": {name: per update}, "steps": {name: updates},
    "limit_s": {name: deadline of the stage}}``, measured, or as it was measured before; ``began``:
    ``time.monotonic()`` at the demo's start.

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
        after_s = AFTER_S * min(SLOWEST, max(1.0, spent_s / BEFORE_S))
        training_s = max(LEAST_S, 60 * command.minutes - spent_s - after_s)
        crops, part = STUDENT_UPDATES[-1]
        needed_s = RESERVE * LEAST["student"] * student_s * crops * part / BATCH
        share = max(LEAST_SHARE, min(TEACHER_SHARE, 1 - needed_s / training_s))
        steps = {"teacher": max(LEAST["teacher"], round(share * training_s / teacher_s))}
        plan = {
            "options": options,
            "threads": threads,
            "after_s": after_s,
            "seconds": {"teacher": teacher_s, "student": student_s},
            "steps": steps,
            # never into the student's time
            "limit_s": {
                "teacher": min(SLACK * share, max(share, 1 - needed_s / training_s)) * training_s
            },
        }
        plan = broadcast_object_list([plan])[0]
        if accelerator.is_main_process:
            write_json(file, plan)
    torch.set_num_threads(plan["threads"])
    return plan


def depth(command: Chain, plan: Plain, elapsed_s: float) -> int:
    """How thorough search and evaluation may be: 2 as planned, 1 half, 0 the least."""
    left = (60 * command.minutes - elapsed_s) / plan["after_s"]
    return 2 if left > 0.8 else 1 if left > 0.4 else 0


def plan_student(command: Chain, plan: Plain, elapsed_s: float) -> Plain:
    """The plan with the student's updates, their "batch", the "part" of the crops' length and their
    deadline: what fits into the time left at the pace that the teacher really had, in the largest
    updates of which there are enough.
    """
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    if "student" in plan["steps"]:
        return plan
    done = load_config(Path(command.out) / "teacher")["training"]
    slower = 3600 * done["hours"] / done["step"] / plan["seconds"]["teacher"]
    left_s = 60 * command.minutes - plan["after_s"] - elapsed_s
    crop_s = slower * plan["seconds"]["student"] / BATCH  # seconds per crop
    fits = {update: round(left_s / (crop_s * update[0] * update[1])) for update in STUDENT_UPDATES}
    enough = [update for update in STUDENT_UPDATES if fits[update] >= LEAST["student"]]
    batch, part = chosen = (enough or STUDENT_UPDATES[-1:])[0]
    made = {
        "steps": {**plan["steps"], "student": max(LEAST["student"], fits[chosen])},
        "batch": batch,
        "part": part,
        "limit_s": {**plan["limit_s"], "student": max(left_s, LEAST_S)},
    }
    plan = broadcast_object_list([{**plan, **made}])[0]
    if Accelerator().is_main_process:
        write_json(Path(command.out) / "plan.json", plan)
    return plan


def seconds_per_update(command: Chain, accelerator: Accelerator) -> tuple[int, float, float]:
    """Threads (one, where other programs keep the cores busy), and seconds per update of teacher
    and student. The student's are those of two crops, times four: the fixed cost of an update
    counts where updates are small.
    """
    import os

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
    network = build_network(
        "compact", fit_network_config(task, data, command.network, count=1, batch_size=4)
    ).to(accelerator.device)
    teacher = Field(network, task)
    stream = batches(data, max(1, BATCH // accelerator.num_processes), num_workers=0)
    # made before the clock runs: files are decoded once, and by a thread of their own
    raws = [next(stream) for _ in range(3)]
    objectives = (
        CFMObjective(network, task.path),
        IntegralObjective(Student.from_teacher(teacher), teacher, task.path),
    )
    threads = torch.get_num_threads()
    if os.getloadavg()[0] > threads / 2:
        threads = 1
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as in every training
    few = [{key: value[:_FEW] for key, value in raw.items()} for raw in raws]
    teacher_s = _seconds(objectives[0], task, raws, accelerator.device)
    student_s = _seconds(objectives[1], task, few, accelerator.device)
    return threads, teacher_s, student_s * BATCH / _FEW


def _seconds(objective: nn.Module, task: Task, raws: list[Plain], device: torch.device) -> float:
    """Of one update, the best of up to three after a warm-up with the first two crops."""
    import torch

    from mfdistill.distill.batch import make_batch

    measured: list[float] = []
    warm = {key: value[:_FEW] for key, value in raws[0].items()}
    for raw in [warm, *raws]:
        start = time.perf_counter()
        loss, _ = objective(make_batch(task, raw, device))
        loss.backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - start)
        if len(measured) > 1 and sum(measured) > _MEASURE_S:  # a busy machine has no time for more
            break
    return 1.1 * min(measured[1:])  # the optimiser, the average, the logs
