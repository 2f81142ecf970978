"""os3-search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.search.config import SearchConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.students import Student


@dataclass(frozen=True)
class OS3Search:
    """Place a student's steps by ternary search (O3S) on the validation split; the schedule is
    written into its config.json.
    """

    student: str = "runs/student"
    """The student's folder, or a checkpoint file of another system, which becomes a folder at
    --out.
    """
    out: str | None = None
    """Another folder for o3s.json and o3s.png than the student's; the student stays as it is
    then.
    """
    data: Corpus = field(default_factory=Corpus)
    """By default what the student was trained on."""
    search: OmitArgPrefixes[SearchConfig] = field(default_factory=SearchConfig)


def run(command: OS3Search) -> Plain:
    """Search as ``command`` says; returns what ``o3s.json`` holds.

    Raises:
        UserError: bad options, student, teacher or data.
    """
    from accelerate import Accelerator

    from mfdistill.checkpoint import load_config
    from mfdistill.commands.reopened import open_parent, saved_rows
    from mfdistill.data.open import open_task_eval
    from mfdistill.distill.equip import equip
    from mfdistill.distill.logs import say
    from mfdistill.distill.opening import attach_vocoder, open_model
    from mfdistill.peers import watch
    from mfdistill.search import run_search
    from mfdistill.search.development import AUTO_MOST, utterances_text
    from mfdistill.search.score import TEACHER_MSE, resolve_metric

    search = command.search
    metric, column, direction = resolve_metric(search.metric)
    accelerator = Accelerator()
    device = accelerator.device
    watch(device)
    folder = Path(command.student)
    if folder.name == "config.json":
        folder = folder.parent
    search_out = command.out
    if folder.is_file():
        folder, search_out = imported(folder, command.out, accelerator), None
    if search.nfe == 1:
        raise UserError("--nfe 1: one step has no inner time to place; search with --nfe 2 or more")
    model = open_model(folder, device, "student")
    if not folder.is_dir():
        raise UserError(
            f"--student {folder}: not a folder here, so the schedule cannot be written into it; copy the student to a folder"
        )
    task, config = model.task, load_config(folder)
    tts, seed, task.draws = saved_rows(config, f"{folder}/config.json")
    teacher = None
    if metric == TEACHER_MSE:
        teacher = open_parent(config, folder, search.teacher).to(device)
    elif search.vocoder is not None or task.rows == "utterances":
        attach_vocoder(task, device, search.vocoder)
    equip(task, model.module.get_submodule("network"), folder, device)
    most = AUTO_MOST if search.limit == "auto" else search.limit
    utterances = open_task_eval(command.data, "valid", task, most, tts, seed)
    if accelerator.is_main_process:
        better = "higher" if direction > 0 else "lower"
        many = utterances_text(len(utterances), search.limit)
        say(
            f"{folder}: placing {search.nfe} steps by {column} ({better} is better) on {many} of {command.data.source}"
        )
    student: Student = model.module  # type: ignore[assignment]
    out = search_out or folder
    found = run_search(student, task, utterances, search, accelerator, out, teacher)
    if accelerator.is_main_process:
        _show(found, Path(out))
    return found


def imported(file: Path, out: str | None, accelerator: Accelerator) -> Path:
    """The folder ``out`` with the student of another system's checkpoint, which a schedule can be
    written into.

    Raises:
        UserError: no ``out``, or a file that holds no student.
    """
    from mfdistill.students import load_student, save_student

    if out is None:
        raise UserError(
            f"--student {file}: a checkpoint of another system cannot hold a schedule; name a folder for it with --out"
        )
    if accelerator.is_main_process and not (Path(out) / "config.json").is_file():
        save_student(load_student(file), out)
    accelerator.wait_for_everyone()
    return Path(out)


def _show(found: Plain, folder: Path) -> None:
    from rich.console import Console

    from mfdistill.commands.derived import refresh
    from mfdistill.commands.pages import write_report
    from mfdistill.distill.logs import say
    from mfdistill.report import comparison_table, table

    sign, column = found["direction"], found["column"]

    def row(what: str, schedule: list[float], score: float | None) -> Plain:
        return {
            "schedule": what,
            "times": " ".join(f"{t:.3f}" for t in schedule),
            column: None if score is None else sign * score,
        }

    rows = [row(start["name"], start["from"], start["from_score"]) for start in found["starts"]]
    rows += [
        row(f"from {start['name']}", start["schedule"], start["score"]) for start in found["starts"]
    ]
    Console().print(
        table(
            rows,
            title=f"O3S, {found['nfe']} NFE, {found['n']} utterances, {found['scored']} schedules scored",
        )
    )
    Console().print(comparison_table(found))
    last = found["rounds"][-1]
    say(
        f"{folder}: stopped with {found['n']} utterances: {found['stopped']}; {last['ended_early']} of {last['visits']} lines ended early; "
        f"{sum(part['scored'] for part in found['rounds'])} schedules scored, {found['sampled']} utterances synthesised"
    )
    times = " ".join(f"{t:.3f}" for t in found["schedule"])
    kept = (
        f", and schedule {times} in config.json"
        if (folder / "config.json").is_file()
        else f"; schedule {times}"
    )
    if (folder / "config.json").is_file():
        refresh(folder)
    else:
        write_report(folder)
    say(f"{folder}: o3s.json, o3s.png, report.html{kept}")
