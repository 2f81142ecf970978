"""evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mfdistill.commands.options import Corpus
from mfdistill.commands.progress import progress
from mfdistill.commands.runs import wav_name

if TYPE_CHECKING:
    from mfdistill.distill.inference import Model, Steps
    from mfdistill.tasks import Restoration


_WIDE = 140  # columns of a terminal that the whole table fits into


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
    seed: int = 0
    """Of the noise, which is the same for every system."""
    workers: int = 1
    """Processes for PESQ, ESTOI and other slow metrics, beside this one."""
    data: Corpus = field(default_factory=Corpus)
    """By default what the student was trained on."""


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    model: str
    nfe: int
    schedule: str
    steps: Steps | None = None
    source: Model | None = None
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        return wav_name(self.model, self.nfe, self.schedule)


def run(command: Evaluate) -> list[dict[str, Any]]:
    """Evaluate as ``command`` says; returns the rows of the table.

    Raises:
        UserError: nothing to evaluate, checkpoints of different tasks, bad data, a metric that is
            unknown or not installed.
    """
    from accelerate import Accelerator

    from mfdistill.data import open_eval
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.metrics import differences, named, pesq_mode, plain, scoring_pool, summarise
    from mfdistill.peers import watch

    for name in ("teacher_nfe", "student_nfe"):
        if any(nfe < 1 for nfe in getattr(command, name)):
            raise UserError(f"--{name.replace('_', '-')}: numbers of steps must be at least 1")
    named(command.metrics)
    accelerator = Accelerator()
    watch(accelerator.device)
    task, entries = _entries(command, accelerator.device)
    labels = [entry.label for entry in entries]
    if command.against is not None and command.against not in labels:
        raise UserError(f"--against {command.against}: choose from {', '.join(labels)}")
    utterances = open_eval(
        command.data, command.split, task.degradation, task.sample_rate, limit=command.limit
    )
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
            about = {
                "task": task.config.name,
                "model": entry.model,
                "nfe": entry.nfe,
                "schedule": entry.schedule,
            }
            made = (
                (entry.source.config.get("objective") or {}).get("name")
                if entry.source is not None
                else None
            )
            rows.append(
                about
                | {
                    "objective": made,
                    "network": None
                    if entry.source is None
                    else entry.source.config["network"]["name"],
                }
                | {
                    "params": None if entry.source is None else entry.source.params,
                    "split": command.split,
                }
                | {
                    "sample_rate": task.sample_rate,
                    "pesq_mode": pesq_mode(task.sample_rate),
                    "rtf": rtf,
                    "checkpoint": entry.checkpoint,
                }
                | {"times": list(entry.steps) if isinstance(entry.steps, Sequence) else None}
                | summarise(
                    [
                        {key: value for key, value in row.items() if key != "utterance"}
                        for row in scores
                    ]
                )
            )
            details += [about | plain(row) for row in scores]
            scored[entry.label] = about, scores
    if main:
        heard = _heard(command, utterances, rows, details)
        for entry in entries:
            for index in heard[command.audio :]:
                wave = utterances[index]["degraded"].to(accelerator.device)
                restored = _restored(command, entry, task, utterances, wave, index)
                _keep_wave(command, entry, task, utterances.names[index], restored.cpu().numpy())
        if command.against is not None:
            other = scored[command.against][1]
            _write_differences(
                command,
                [
                    about | differences(scores, other)
                    for label, (about, scores) in scored.items()
                    if label != command.against
                ],
            )
        _write(command, task, utterances, rows, details, entries, heard)
    accelerator.wait_for_everyone()
    return rows


def _entries(command: Evaluate, device: Any) -> tuple[Restoration, list[Entry]]:
    from mfdistill.commands.predictor import same_features
    from mfdistill.commands.training import same_task
    from mfdistill.distill.inference import open_model
    from mfdistill.errors import UserError

    models: dict[str, tuple[str, Model]] = {}
    if command.student is not None:
        models["student"] = command.student, open_model(command.student, device, "student")
    parent = (models["student"][1].config.get("parent") or {}).get("teacher") if models else None
    teacher = command.teacher or (parent if parent and Path(parent).is_dir() else None)
    for role, path in (("teacher", teacher), ("regression", command.regression)):
        if path is not None:
            models[role] = path, open_model(path, device, role)
    if not models:
        raise UserError("evaluate: nothing to evaluate; give --student, --teacher or --regression")
    task = next(iter(models.values()))[1].task
    for role, (path, model) in models.items():
        if role == "regression":
            same_features(task.config, model.task.config, f"--{role} {path}")
        else:
            same_task(task, model.task, f"--{role} {path}")

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
    return task, entries


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
    task: Restoration,
    utterances: Any,
    accelerator: Any,
    pool: Any,
    tell: Callable[[str, float], None],
) -> tuple[list[dict[str, Any]], float | None]:
    """Rows of one system and its real-time factor (measured on the main process)."""
    import torch
    from torch import Tensor

    from mfdistill.distill.validation import score_system
    from mfdistill.metrics import measure_rtf

    def system(wave: Tensor, index: int) -> Tensor:
        return _restored(command, entry, task, utterances, wave, index)

    heard = {utterances.names[i] for i in range(min(command.audio, len(utterances)))}

    def keep(name: str, wave: Any) -> None:
        tell(entry.label, 1)
        if name in heard:
            _keep_wave(command, entry, task, name, wave)

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


def _restored(
    command: Evaluate, entry: Entry, task: Restoration, utterances: Any, wave: Any, index: int
) -> Any:
    """Waveform (s,) of one system from the degraded one; the input itself where there is none."""
    from mfdistill.distill.inference import restore, text_of

    if entry.source is None:
        return task.degrade(wave[None])[0]
    text = text_of(task, utterances[index])
    source = entry.source
    return restore(source.task, source.endpoint, wave, entry.steps, command.seed, index, text=text)


def _heard(
    command: Evaluate,
    utterances: Any,
    rows: Sequence[Mapping[str, Any]],
    details: Sequence[Mapping[str, Any]],
) -> list[int]:
    """Numbers of the utterances that are written: the first ones, then what the student does worst
    and best.
    """
    from mfdistill.report.story import extremes

    first = list(range(min(command.audio, len(utterances))))
    found = [utterances.names.index(name) for name in extremes(rows, details)] if first else []
    return first + [index for index in found if index not in first]


def _keep_wave(command: Evaluate, entry: Entry, task: Restoration, name: str, wave: Any) -> None:
    from mfdistill.audio.io import write_audio

    write_audio(_wav(command, name, entry.label), wave, task.sample_rate, subtype="FLOAT")


def _wav(command: Evaluate, name: str, label: str) -> Path:
    return Path(command.out) / "audio" / name.replace("/", "_") / f"{label}.wav"


def _write(
    command: Evaluate,
    task: Restoration,
    utterances: Any,
    rows: list[dict[str, Any]],
    details: list[dict[str, Any]],
    entries: Sequence[Entry],
    heard: Sequence[int],
) -> None:
    from mfdistill.audio.io import write_audio
    from mfdistill.checkpoint import write_json, write_text
    from mfdistill.commands.derived import refresh
    from mfdistill.commands.pages import write_report
    from mfdistill.commands.results import holds_results, keep
    from mfdistill.config import to_dict
    from mfdistill.distill.logs import say
    from mfdistill.report import model_card, quality_plot, write_table

    out = Path(command.out)
    write_table(out / "evaluation", rows)
    write_table(out / "utterances", details)
    quality_plot(
        rows,
        out / "quality.png",
        title=f"{task.config.name}, {task.sample_rate} Hz, {rows[0]['n']} utterances",
    )
    card: Mapping[str, Any] = next(
        (entry.source.config for entry in reversed(entries) if entry.source is not None), {}
    )
    where = next((entry.checkpoint for entry in reversed(entries) if entry.checkpoint), None)
    write_text(out / "README.md", model_card(card, rows, where=where))
    write_json(out / "command.json", to_dict(command))
    told = {"data": command.data.source, "split": command.split, "limit": command.limit, "out": str(out)}  # fmt: skip
    models = {entry.checkpoint for entry in entries if entry.checkpoint}
    for folder in sorted(models):
        if holds_results(Path(folder)):
            keep(Path(folder), {**told, "rows": rows})
    for item in (utterances[i] for i in heard):
        write_audio(
            _wav(command, item["name"], "clean"),
            item["clean"].numpy(),
            task.sample_rate,
            subtype="FLOAT",
        )
    _show(
        rows,
        f"{task.config.name}, {task.sample_rate} Hz, {rows[0]['n']} utterances ({command.split}), mean ± 95 % confidence",
    )
    for folder in sorted(models):
        refresh(folder)
    write_report(out)
    say(
        f"{out}: report.html, evaluation.csv and .json, utterances.csv and .json, quality.png, README.md"
        + (", audio/" if command.audio else "")
    )


def _write_differences(command: Evaluate, rows: list[dict[str, Any]]) -> None:
    from mfdistill.distill.logs import say
    from mfdistill.report import write_table

    write_table(Path(command.out) / "differences", rows)
    _show(rows, f"difference to {command.against}, mean ± 95 % confidence of pairs", paired=True)
    say(f"{command.out}: differences.csv and .json")


def _show(rows: Sequence[Mapping[str, Any]], title: str, paired: bool = False) -> None:
    """The table; a narrow terminal gets it without intervals and with the model's columns in
    one.
    """
    from rich.console import Console

    from mfdistill.metrics import column_of
    from mfdistill.report import table

    console = (
        Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
    )
    metrics = [
        column
        for column in rows[-1]
        if f"{column}_ci95" in rows[-1] and not ((own := column_of(column)) and own.minor)
    ]
    facts = [] if paired else ["params", "rtf"]
    if paired or console.width >= _WIDE:
        console.print(table(rows, ["model", "nfe", "schedule", *facts, *metrics], title=title))
        return
    short = [
        {
            "system": f"{row['model']} {row['nfe'] or ''} {row['schedule'].replace('uniform', '')}".strip()
        }
        | dict(row)
        for row in rows
    ]
    plain = [
        {key: value for key, value in row.items() if not key.endswith("_ci95")} for row in short
    ]
    console.print(table(plain, ["system", "rtf", *metrics], title=title.split(", mean")[0]))
    sizes = {
        row["model"]: f"{row['model']} {row['params'] / 1e6:.2f} M parameters"
        for row in rows
        if row["params"]
    }
    console.print(
        f"{', '.join(sizes.values())}; confidence intervals are in evaluation.csv (or widen the terminal)"
    )
