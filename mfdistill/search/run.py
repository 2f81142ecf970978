"""One search from a student's folder to the schedule in its ``config.json``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.errors import UserError
from mfdistill.flow import schedule as make_schedule
from mfdistill.flow import sway
from mfdistill.metrics import scoring_pool
from mfdistill.plain import Item, Plain
from mfdistill.search.compare import alike, baselines, compare, settled
from mfdistill.search.config import SearchConfig
from mfdistill.search.development import Block, Development, spans
from mfdistill.search.o3s import Evaluation, Schedule, SearchResult, o3s_from, rounded
from mfdistill.search.record import record, write
from mfdistill.search.score import TEACHER_MSE, StudentScorer, resolve_metric
from mfdistill.students import Student, load_student
from mfdistill.teachers import Field, load_teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mfdistill.tasks import Task

_STARTS: dict[str, Callable[[int], Sequence[float]]] = {"uniform": make_schedule, "sway": sway}
CACHE_FILE = "o3s_cache.jsonl"

log = logging.getLogger(__name__)


def run_search(
    student: str | Path | Student,
    task: Task | None,
    utterances: Sequence[Item],
    config: SearchConfig,
    accelerator: Accelerator | None = None,
    out: str | Path | None = None,
    teacher: Field | None = None,
) -> Plain:
    """Search and write the results; every rank returns the same dictionary, the main process
    writes.

    Into the folder go ``o3s.json`` and ``o3s.png`` (the last search), the same as
    ``o3s-<nfe>.json`` and ``.png``, the scores seen so far (``o3s_cache.jsonl``: a search that was
    killed goes on where it was), and in ``config.json`` ``schedule`` and ``schedules[<nfe>]``.

    Args:
        student: a student's folder, or a ``Student`` (nothing is written unless ``out`` is given).
        task: None for the student's own.
        utterances: of the validation split (``data.open_eval``); never of the test split. Read as
            far as the search goes.
        out: another folder than the student's for the results; its ``config.json``, if there is
            one, gets the schedule.
        teacher: of the metric teacher-mse; None: opened from ``config.teacher``.

    Raises:
        UserError: no student there, a task that is not the student's, an unknown metric, no usable
            utterance, or files that cannot be written.
    """
    resolve_metric(config.metric)  # before anything is loaded
    if config.metric == TEACHER_MSE and config.teacher is None and teacher is None:
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
    if config.metric != TEACHER_MSE:
        teacher = None
    elif teacher is None:
        teacher = load_teacher(str(config.teacher), device=device or "cpu")
    folder = None if out is None else Path(out)
    with scoring_pool(config.workers) as pool:

        def blocks() -> Iterator[Block]:
            for first, last in spans(len(utterances), config.limit):
                chosen = [utterances[i] for i in range(first, last)]
                scorer = StudentScorer(
                    student, task, chosen, config.metric, config.seed, accelerator, teacher, config.teacher_steps, config.teacher_solver,
                    pool, first,
                )  # fmt: skip
                yield scorer, [str(item["name"]) for item in chosen]

        return search_counts(blocks(), student, config, accelerator, folder, began)


def search_counts(
    blocks: Iterable[Block],
    student: Student,
    config: SearchConfig,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    began: float | None = None,
) -> Plain:
    """``search_with`` for every number of steps from ``config.nfe`` to ``config.up_to``, on the
    same blocks: utterances are prepared, and a teacher's targets made, once. The last one is
    ``config.nfe``, so that its schedule is the student's own; its results are returned.
    """
    kept = _Kept(blocks)
    for nfe in range(config.up_to or config.nfe, config.nfe, -1):
        one = replace(config, nfe=nfe, up_to=None)
        search_with(kept, student, one, accelerator, folder, began)
    one = replace(config, up_to=None)
    return search_with(kept, student, one, accelerator, folder, began)


class _Kept:
    """Blocks that can be gone through again; each is made once."""

    def __init__(self, blocks: Iterable[Block]):
        self._rest = iter(blocks)
        self._made: list[Block] = []

    def __iter__(self) -> Iterator[Block]:
        number = 0
        while True:
            if number == len(self._made):
                block = next(self._rest, None)
                if block is None:
                    return
                self._made.append(block)
            yield self._made[number]
            number += 1


def search_with(
    blocks: Iterable[Block],
    student: Student,
    config: SearchConfig,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    began: float | None = None,
) -> Plain:
    """The search itself, by any score; results and files as ``run_search``.

    It runs on the first block and compares what it found with the schedules that cost no search on
    the next, which it has not seen. Where that does not settle it (``compare.settled``), it runs
    again on both, scoring what it knows on the new utterances alone. What it finds on its blocks is
    what a search on so many utterances finds. After the last block the comparison is on what it has
    seen.

    Args:
        blocks: of utterances, in an order that the number of processes does not change; made as
            they are needed.
        folder: what to write into; None: nothing is written.
        began: ``time.perf_counter()`` when the work began.
    """
    began = time.perf_counter() if began is None else began
    main = accelerator is None or accelerator.is_main_process
    dev = Development(
        blocks, accelerator, folder / CACHE_FILE if folder is not None and main else None
    )
    dev.take()
    scorer, others = dev.scorers[0], baselines(config.nfe)
    rounds: list[Plain] = []
    while True:
        searched = len(dev.scorers)
        result, resolution = _search(dev, config, main)
        unseen = dev.take()
        schedules = {"found": result.schedule, **others}
        values = {
            name: dev.values(schedule, searched if unseen else 0)
            for name, schedule in schedules.items()
        }
        rows = compare(schedules, values, scorer.direction)
        why = settled(rows, scorer.direction, resolution)
        rounds.append(
            {
                "n": sum(part.n for part in dev.scorers[:searched]),
                "requests": len(result.evaluations),
                "scored": result.scored,
                "visits": result.visits,
                "ended_early": result.early,
                "comparison": {"n": len(values["found"]), "unseen": unseen, "rows": rows},
            }
        )
        if why is not None or not unseen:
            break
        if main:
            log.info(
                "O3S: %d utterances do not settle it; going on with %d",
                rounds[-1]["n"],
                sum(part.n for part in dev.scorers),
            )
    found = record(result, scorer, config) | {
        "n": rounds[-1]["n"],
        "comparison": rounds[-1]["comparison"],
        "resolution": resolution,
        "rounds": rounds,
        "stopped": why or "no more utterances",
        "sampled": dev.sampled,
        "utterances": [name for names in dev.names[:searched] for name in names],
        "fingerprint": dev.fingerprint(searched),
        "seconds": round(time.perf_counter() - began, 1),
    }
    student.schedule = list(result.schedule)
    if main and folder is not None:
        write(folder, found)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return found


def _search(dev: Development, config: SearchConfig, main: bool) -> tuple[SearchResult, float]:
    """On all blocks taken so far; the result and the difference that counts as none."""
    starts = {name: _STARTS[name](config.nfe) for name in config.starts}
    first = rounded(starts[config.starts[0]])
    memo = dev.known()
    if memo and main:
        log.info("O3S: %d scores known from an earlier search", len(memo))

    def resolution() -> float:
        return config.resolution_of(dev.scorers[0].column, dev.score(first))

    def close(a: Schedule, b: Schedule) -> bool:
        return alike(dev.values(a), dev.values(b), resolution())

    with _progress(config, main) as observe:
        result = o3s_from(
            dev.score, starts, memo, iterations=config.iterations, patience=config.patience, margin=config.margin, observe=observe,
            close=None if config.resolution == 0 else close,
        )  # fmt: skip
    return result, resolution()


@contextlib.contextmanager
def _progress(config: SearchConfig, show: bool) -> Iterator[Callable[[Evaluation], None]]:
    """A progress line on the main process; the total is what a search with one improving sweep asks
    for.
    """
    best: list[Evaluation] = []

    def note(evaluation: Evaluation) -> None:
        if not best or evaluation.score > best[0].score:
            best[:] = [evaluation]
            log.info("O3S: %s at %s", f"{evaluation.score:.5g}", list(evaluation.schedule))

    if not show:
        yield lambda evaluation: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    visits = 2 * config.nfe - 1 if config.nfe > 1 else 0
    total = len(config.starts) * (1 + visits * (2 * config.iterations + 1))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
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


def _folder(student: str | Path) -> Path:
    if not Path(student).is_dir():
        raise UserError(
            f"--student {student}: not a folder here, so the schedule cannot be written into it; copy the student to a folder"
        )
    return Path(student)


def _agreed(student: Student, task: Task | None) -> Task:
    own = student.task
    if task is None and own is None:
        raise UserError("--student: this student has no task of its own; say which task it is for")
    if task is not None and own is not None and task.config != own.config:
        raise UserError(
            f"--student: was made for task {own.config.name} with its own settings, not for this {task.config.name}"
        )
    return task if task is not None else own  # type: ignore[return-value]
