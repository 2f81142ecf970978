"""evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mfdistill.commands.evaluated import Entry, Heard
from mfdistill.commands.options import Corpus
from mfdistill.commands.progress import progress
from mfdistill.errors import UserError
from mfdistill.plain import Plain

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from mfdistill.data.open import EvalRows
    from mfdistill.data.tts_config import TTSOptions
    from mfdistill.distill.opening import Model
    from mfdistill.metrics import Workers
    from mfdistill.tasks import Task


@dataclass(frozen=True)
class Evaluate:
    """Compare unprocessed input, teacher, student and regression network on whole utterances:
    table, JSON, CSV, figure, WAV files.
    """

    student: str | None = None
    """The student's folder; steps are equal ones, and searched ones where its config.json has
    them.
    """
    teacher: str | None = None
    """The teacher's folder; by default the one the student was made from, if it is still there."""
    regression: str | None = None
    """Folder of a regression network (teacher-train --objective regression)."""
    out: str = "runs/evaluation"
    """Folder of the results."""
    split: Literal["test", "valid"] = "test"
    limit: int | None = None
    """Use at most so many utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr", "lsd", "spksim", "dnsmos")
    """Of those in docs/metrics.md."""
    against: str | None = None
    """A system of the table (teacher-20, regression, unprocessed, ...): the others' differences to
    it, with intervals paired by utterance, are a second table.
    """
    teacher_nfe: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Euler steps of the teacher."""
    teacher_solver: tuple[str, ...] = ()
    """Other solvers of the teacher, each run once from 0 to 1: methods, compositions such as
    2xmidpoint+1xeuler@0.2, or folders and files of learned solvers.
    """
    student_nfe: tuple[int, ...] = (1, 2, 3)
    """Equal steps of the student."""
    audio: int = 4
    """Utterances whose restored waveforms are written as WAV files, beside those that the student
    does worst and best.
    """
    vocoder: str | None = None
    """Of generated speech, another than the model's own (as of synthesize)."""
    seed: int = 0
    """Of the noise, which is the same for every system."""
    workers: int = 1
    """Processes for PESQ, ESTOI and other slow metrics, beside this one."""
    data: Corpus = field(default_factory=Corpus)
    """By default what the student was trained on."""


def run(command: Evaluate) -> list[Plain]:
    """Evaluate as ``command`` says; returns the rows of the table.

    Raises:
        UserError: nothing to evaluate, checkpoints of different tasks, bad data, a metric that is
            unknown or not installed.
    """
    from accelerate import Accelerator

    from mfdistill.commands.evaluated import heard_ones, write_differences, write_evaluation
    from mfdistill.config import to_dict
    from mfdistill.data.open import open_task_eval
    from mfdistill.distill.logs import say
    from mfdistill.metrics import differences, named, plain, scoring_pool, summarise
    from mfdistill.peers import watch

    for name in ("teacher_nfe", "student_nfe"):
        if any(nfe < 1 for nfe in getattr(command, name)):
            raise UserError(f"--{name.replace('_', '-')}: numbers of steps must be at least 1")
    named(command.metrics)
    accelerator = Accelerator()
    device = accelerator.device
    watch(device)
    task, entries, (tts, seed) = _entries(command, accelerator.device)
    labels = [entry.label for entry in entries]
    if command.against is not None and command.against not in labels:
        raise UserError(f"--against {command.against}: choose from {', '.join(labels)}")
    utterances = open_task_eval(command.data, command.split, task, command.limit, tts, seed)
    main = accelerator.is_main_process
    if main:
        what = f"{len(utterances)} utterances of {command.data.source} ({command.split})"
        say(
            f"evaluating '{task.config.name}' at {task.sample_rate} Hz: {len(entries)} systems on {what}"
        )
    rows, details, scored = [], [], {}
    share = -(-len(utterances) // accelerator.num_processes)
    with (
        scoring_pool(command.workers) as pool,
        progress(len(entries) * share, "utterances", main) as tell,
    ):
        for entry in entries:
            scores, rtf = _score(command, entry, task, utterances, accelerator, pool, tell)
            about = entry.about(task)
            plain_rows = [
                {key: value for key, value in row.items() if key != "utterance"} for row in scores
            ]
            rows.append(
                {**about, **entry.facts(task), "split": command.split, "rtf": rtf}
                | summarise(plain_rows)
            )
            details += [about | plain(row) for row in scores]
            scored[entry.label] = about, scores
    if main:
        out, source = Path(command.out), command.data.source
        heard = Heard(out, utterances, heard_ones(utterances, command.audio, rows, details))
        for entry in entries:
            for index in heard.numbers[command.audio :]:
                heard.write(entry.label, task, index, _sound(command, entry, task, utterances, device, index).cpu().numpy())  # fmt: skip
        if command.against is not None:
            other = scored[command.against][1]
            paired = [
                about | differences(scores, other)
                for label, (about, scores) in scored.items()
                if label != command.against
            ]
            write_differences(out, paired, command.against)
        told = {"data": source, "split": command.split, "limit": command.limit, "out": str(out)}
        write_evaluation(heard, task, entries, rows, details, told, to_dict(command))
    accelerator.wait_for_everyone()
    return rows


def _entries(
    command: Evaluate, device: torch.device
) -> tuple[Task, list[Entry], tuple[TTSOptions, int]]:
    """The task, the lines of the table, and how rows are made of the data."""
    from mfdistill.commands.reopened import open_parent, saved_rows
    from mfdistill.commands.same import same_features, same_task
    from mfdistill.distill.opening import model_of, open_model, ready

    models: dict[str, tuple[str, Model]] = {}
    if command.student is not None:
        opened = ready(command.student, device, "student", vocoder=command.vocoder)
        models["student"] = command.student, opened
    config = models["student"][1].config if models else {}
    parent = (config.get("parent") or {}).get("teacher")
    if command.teacher is not None:
        opened = (
            open_model(command.teacher, device, "teacher")
            if models
            else ready(command.teacher, device, "teacher", vocoder=command.vocoder)
        )
        models["teacher"] = command.teacher, opened
    elif parent and Path(parent).exists():
        field_ = open_parent(config, Path(str(command.student)))
        models["teacher"] = parent, model_of(field_.to(device))
    if command.regression is not None:
        model = open_model(command.regression, device, "regression")
        models["regression"] = command.regression, model
    if not models:
        raise UserError("evaluate: nothing to evaluate; give --student, --teacher or --regression")
    task = next(iter(models.values()))[1].task
    for role, (path, model) in models.items():
        if role == "regression":
            same_features(task.config, model.task.config, f"--{role} {path}")
        else:
            same_task(task, model.task, f"--{role} {path}")
        if task.rows == "utterances":  # equipped, and with a vocoder
            models[role] = path, replace(model, task=task)

    entries = [Entry("unprocessed", 0, "")]
    for role in ("regression", "teacher", "student"):
        if role not in models:
            continue
        path, model = models[role]
        if role == "regression":
            entries.append(Entry(role, 1, "", None, model, path))
        numbers = {"teacher": command.teacher_nfe, "student": command.student_nfe}.get(role, ())
        entries += [Entry(role, nfe, "uniform", nfe, model, path) for nfe in numbers]
        entries += _solved(command.teacher_solver, model, path) if role == "teacher" else []
        for nfe in model.config.get("schedules") or {}:
            entries.append(Entry(role, int(nfe), "o3s", model.schedule(int(nfe))[1], model, path))
    tts, seed, _ = saved_rows(config, str(command.student))
    return task, entries, (tts, seed)


def _solved(solvers: Sequence[str], teacher: Model, path: str) -> list[Entry]:
    """One line for each solver beside Euler's equal steps."""
    from mfdistill.flow.solvers import stages
    from mfdistill.search.learned import find_solver

    entries = []
    for text in solvers:
        solver = find_solver(text)
        name = text if isinstance(solver, str) else Path(text).stem
        entries.append(Entry("teacher", stages(solver), name, 1, teacher.solved_by(solver), path))
    return entries


def _score(
    command: Evaluate,
    entry: Entry,
    task: Task,
    utterances: EvalRows,
    accelerator: Accelerator,
    pool: Workers | None,
    tell: Callable[[str, float], None],
) -> tuple[list[Plain], float | None]:
    """Rows of one system and its real-time factor (measured on the main process)."""
    import torch

    from mfdistill.distill.validation import score_system
    from mfdistill.metrics import measure_rtf

    def system(wave: torch.Tensor, index: int) -> torch.Tensor:
        return _sound(command, entry, task, utterances, wave.device, index)

    first = range(min(command.audio, len(utterances)))
    heard = Heard(Path(command.out), utterances, list(first))
    kept = {utterances.names[i]: i for i in first}

    def keep(name: str, wave: np.ndarray) -> None:
        tell(entry.label, 1)
        if name in kept:
            heard.write(entry.label, task, kept[name], wave)

    rows = score_system(
        system, utterances, command.metrics, task.sample_rate, accelerator, pool, keep, task
    )
    rtf = None
    if entry.source is not None and accelerator.is_main_process:
        wave = utterances[0]["degraded"].to(accelerator.device)
        wait = torch.cuda.synchronize if wave.is_cuda else None
        rtf = measure_rtf(
            lambda: system(wave, 0), len(wave) / task.sample_rate, repeats=3, synchronise=wait
        )
    accelerator.wait_for_everyone()
    return rows, rtf


def _sound(
    command: Evaluate,
    entry: Entry,
    task: Task,
    utterances: EvalRows,
    device: torch.device,
    index: int,
) -> torch.Tensor:
    """Waveform (s,) of one system; what it is given, or can reach at most, where there is none."""
    from mfdistill.distill.inference import generate

    item, source = utterances[index], entry.source
    if source is None:
        return task.unprocessed(item, device)
    return generate(source.task, source.endpoint, item, device, entry.steps, command.seed, index)
