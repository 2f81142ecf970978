"""One search from a student's folder to the schedule in its ``config.json``."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mfdistill.checkpoint import load_config, write_json
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.flow import schedule as make_schedule
from mfdistill.flow import sway
from mfdistill.metrics import scoring_pool
from mfdistill.search.cache import ScoreCache
from mfdistill.search.config import SearchConfig
from mfdistill.search.o3s import Evaluation, Schedule, SearchResult, o3s_from
from mfdistill.search.score import TEACHER_MSE, StudentScorer, resolve_metric
from mfdistill.students import Student, load_student
from mfdistill.teachers import load_teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task

_STARTS: dict[str, Callable[[int], Sequence[float]]] = {"uniform": make_schedule, "sway": sway}
CACHE_FILE = "o3s_cache.jsonl"

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """What a search asks (``score.StudentScorer``, ``flow_score.FlowScorer``): larger is better, the same on every rank."""

    direction: int
    column: str
    n: int

    def __call__(self, schedule: Schedule) -> float: ...

    def fingerprint(self) -> str: ...


def run_search(
    student: str | Path | Student,
    task: Task | None,
    utterances: Sequence[Mapping[str, Any]],
    config: SearchConfig,
    accelerator: Accelerator | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Search and write the results; every rank returns the same dictionary, the main process writes.

    Into the folder go ``o3s.json`` and ``o3s.png`` (the last search), the same as ``o3s-<nfe>.json`` and ``.png``, the scores seen so far
    (``o3s_cache.jsonl``: a search that was killed goes on where it was), and in ``config.json`` ``schedule`` and ``schedules[<nfe>]``.

    Args:
        student: a student's folder, or a ``Student`` (nothing is written unless ``out`` is given).
        task: None for the student's own.
        utterances: of the validation split (``data.open_eval``); never of the test split.
        out: another folder than the student's for the results; its ``config.json``, if there is one, gets the schedule.

    Raises:
        UserError: no student there, a task that is not the student's, an unknown metric, no usable utterance, or files that cannot be
            written.
    """
    resolve_metric(config.metric)  # before anything is loaded
    if config.metric == TEACHER_MSE and config.teacher is None:
        raise UserError("--teacher: metric teacher-mse compares with a teacher; name its folder")
    began = time.perf_counter()
    device = accelerator.device if accelerator is not None else None
    if isinstance(student, (str, Path)):
        out = _folder(student) if out is None else out
        student = load_student(student, device=device or "cpu")
    elif device is not None:
        student.to(device)
    student.eval()
    task = _agreed(student, task)
    teacher = load_teacher(config.teacher, device=device or "cpu") if config.teacher and config.metric == TEACHER_MSE else None
    folder = None if out is None else Path(out)
    chosen = [utterances[i] for i in range(min(len(utterances), config.limit or len(utterances)))]

    with scoring_pool(config.workers) as pool:
        scorer = StudentScorer(
            student, task, chosen, config.metric, config.seed, accelerator, teacher, config.teacher_steps, config.teacher_solver, pool
        )
        return search_with(scorer, student, [str(item["name"]) for item in chosen], config, accelerator, folder, began)


def search_with(
    scorer: Scorer,
    student: Student,
    names: Sequence[str],
    config: SearchConfig,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """The search itself, by any score; results and files as ``run_search``.

    Args:
        names: of the utterances that are scored. folder: what to write into; None: nothing is written.
        began: ``time.perf_counter()`` when the work began.
    """
    began = time.perf_counter() if began is None else began
    main = accelerator is None or accelerator.is_main_process
    fingerprint = scorer.fingerprint()
    cache = ScoreCache(folder / CACHE_FILE if folder is not None and main else None, fingerprint)
    result = _search(scorer, config, _shared(cache.load(), accelerator), cache, main)
    found = _record(result, scorer, config) | {
        "utterances": list(names),
        "fingerprint": fingerprint,
        "seconds": round(time.perf_counter() - began, 1),
    }
    student.schedule = list(result.schedule)
    if main and folder is not None:
        _write(folder, found)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return found


def _search(scorer: Scorer, config: SearchConfig, memo: dict[Schedule, float], cache: ScoreCache, main: bool) -> SearchResult:
    starts = {name: _STARTS[name](config.nfe) for name in config.starts}
    if memo and main:
        log.info("O3S: %d scores known from an earlier search", len(memo))

    def score(schedule: Schedule) -> float:
        value = scorer(schedule)
        if main:
            cache.add(schedule, value)
        return value

    with _progress(config, main) as observe:
        return o3s_from(
            score, starts, memo, iterations=config.iterations, patience=config.patience, margin=config.margin, observe=observe
        )


@contextlib.contextmanager
def _progress(config: SearchConfig, show: bool) -> Iterator[Callable[[Evaluation], None]]:
    """A progress line on the main process; the total is what a search with one improving sweep asks for."""
    best: list[Evaluation] = []

    def note(evaluation: Evaluation) -> None:
        if not best or evaluation.score > best[0].score:
            best[:] = [evaluation]
            log.info("O3S: %s at %s", f"{evaluation.score:.5g}", list(evaluation.schedule))

    if not show:
        yield lambda evaluation: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    visits = 2 * config.nfe - 1 if config.nfe > 1 else 0
    total = len(config.starts) * (1 + visits * (2 * config.iterations + 1))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        line = progress.add_task(f"O3S {config.nfe} NFE, {config.metric}", total=total)
        done = 0

        def observe(evaluation: Evaluation) -> None:
            nonlocal done
            done += 1
            note(evaluation)
            points = " ".join(f"{t:.3f}" for t in best[0].schedule)
            text = f"O3S {config.nfe} NFE, {config.metric}: {best[0].score:.5g} at {points}"
            progress.update(line, completed=done, total=max(total, done), description=text)

        yield observe
        progress.update(line, completed=done, total=done)


def _record(result: SearchResult, scorer: Scorer, config: SearchConfig) -> dict[str, Any]:
    """What ``o3s.json`` holds. ``score`` is maximised; ``value`` is the metric in its own sign. Null stands for minus infinity."""
    begun = {e.start: e for e in result.evaluations if e.coordinate == 0}
    return {
        "nfe": config.nfe,
        "schedule": list(result.schedule),
        "score": _finite(result.score),
        "value": _finite(scorer.direction * result.score),
        "metric": config.metric,
        "column": scorer.column,
        "direction": scorer.direction,
        "start": result.start,
        "starts": [
            {
                "name": name,
                "from": list(begun[name].schedule),
                "from_score": _finite(begun[name].score),
                "schedule": list(schedule),
                "score": _finite(score),
            }
            for name, schedule, score in result.ends
        ],
        "unimodal": result.unimodal,
        "warnings": list(result.warnings),
        "requests": len(result.evaluations),
        "scored": result.scored,
        "n": scorer.n,
        "config": to_dict(config),
        "evaluations": [
            {
                "schedule": list(e.schedule),
                "score": _finite(e.score),
                "start": e.start,
                "sweep": e.sweep,
                "coordinate": e.coordinate,
                "cached": e.cached,
            }
            for e in result.evaluations
        ],
    }


def _write(folder: Path, found: dict[str, Any]) -> None:
    from mfdistill.report import o3s_plot

    for name in (f"o3s-{found['nfe']}", "o3s"):
        write_json(folder / f"{name}.json", found)
        o3s_plot(found, folder / f"{name}.png")
    if (folder / "config.json").is_file():  # last: the schedule is only there with its search beside it
        config = load_config(folder)
        schedules = {**config.get("schedules", {}), str(found["nfe"]): found["schedule"]}
        ordered = dict(sorted(schedules.items(), key=lambda item: int(item[0])))
        write_json(folder / "config.json", {**config, "schedule": found["schedule"], "schedules": ordered})
    log.info("O3S: schedule %s written to %s", found["schedule"], folder)


def _folder(student: str | Path) -> Path:
    if not Path(student).is_dir():
        raise UserError(f"--student {student}: not a folder here, so the schedule cannot be written into it; copy the student to a folder")
    return Path(student)


def _agreed(student: Student, task: Task | None) -> Task:
    own = student.task
    if task is None and own is None:
        raise UserError("--student: this student has no task of its own; say which task it is for")
    if task is not None and own is not None and task.config != own.config:
        raise UserError(f"--student: was made for task {own.config.name} with its own settings, not for this {task.config.name}")
    return task if task is not None else own  # type: ignore[return-value]


def _shared(known: dict[Schedule, float], accelerator: Accelerator | None) -> dict[Schedule, float]:
    """The main process's scores on every rank: each must make the same moves, or they wait for each other for ever."""
    if accelerator is None or accelerator.num_processes == 1:
        return known
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [known]
    broadcast_object_list(box)
    return box[0]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
