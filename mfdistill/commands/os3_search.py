"""os3-search."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from mfdistill.commands.options import Corpus
from mfdistill.search.config import SearchConfig


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


def run(command: OS3Search) -> dict[str, Any]:
    """Search as ``command`` says; returns what ``o3s.json`` holds.

    Raises:
        UserError: bad options, student, teacher or data.
    """
    from accelerate import Accelerator

    from mfdistill.checkpoint import load_config
    from mfdistill.commands.search_foreign import search_foreign
    from mfdistill.data import open_eval
    from mfdistill.distill.inference import open_model
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.peers import watch
    from mfdistill.search import run_search
    from mfdistill.search.development import AUTO_MOST, utterances_text
    from mfdistill.search.score import TEACHER_MSE, resolve_metric
    from mfdistill.systems.table import mel_inputs

    search = command.search
    metric, column, direction = resolve_metric(search.metric)
    accelerator = Accelerator()
    watch(accelerator.device)
    folder = Path(command.student)
    if folder.name == "config.json":
        folder = folder.parent
    if folder.is_file():
        folder, search_out = imported(folder, command.out, accelerator), None
    else:
        search_out = command.out
    if search.nfe == 1:
        raise UserError("--nfe 1: one step has no inner time to place; search with --nfe 2 or more")
    named = (load_config(folder).get("task") or {}).get("name") if folder.is_dir() else None
    if mel_inputs(named) is not None:
        found = search_foreign(command, folder, accelerator)
        if accelerator.is_main_process:
            _show(found, Path(search_out or folder))
        return found
    task = open_model(folder, role="student").task
    if metric == TEACHER_MSE and search.teacher is None:
        parent = load_config(folder).get("parent") or {}
        search = replace(search, teacher=parent.get("teacher"))
    most = AUTO_MOST if search.limit == "auto" else search.limit
    utterances = open_eval(command.data, "valid", task.degradation, task.sample_rate, limit=most)
    if accelerator.is_main_process:
        better = "higher" if direction > 0 else "lower"
        many = utterances_text(len(utterances), search.limit)
        say(
            f"{folder}: placing {search.nfe} steps by {column} ({better} is better) on {many} of {command.data.source}"
        )
    found = run_search(folder, task, utterances, search, accelerator, out=search_out)
    if accelerator.is_main_process:
        _show(found, Path(search_out or folder))
    return found


def imported(file: Path, out: str | None, accelerator: Any) -> Path:
    """The folder ``out`` with the student of another system's checkpoint, which a schedule can be
    written into.

    Raises:
        UserError: no ``out``, or a file that holds no student.
    """
    from mfdistill.errors import UserError
    from mfdistill.students import load_student, save_student

    if out is None:
        raise UserError(
            f"--student {file}: a checkpoint of another system cannot hold a schedule; name a folder for it with --out"
        )
    if accelerator.is_main_process and not (Path(out) / "config.json").is_file():
        save_student(load_student(file), out)
    accelerator.wait_for_everyone()
    return Path(out)


def _show(found: dict[str, Any], folder: Path) -> None:
    from rich.console import Console

    from mfdistill.commands.derived import refresh
    from mfdistill.commands.pages import write_report
    from mfdistill.distill.logs import say
    from mfdistill.report import comparison_table, table

    sign, column = found["direction"], found["column"]

    def row(what: str, schedule: list[float], score: float | None) -> dict[str, Any]:
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
