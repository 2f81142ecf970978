"""What causality and one evaluation cost: phase retrieval, vocoding and enhancement, scored on streamed audio.

    python benchmarks/streaming_quality.py --data ../shared/data

Trains, for every task, a causal teacher, its one-step student, a regression network of the same size, the pair without causality, and a
causal student of the teacher that sees everything. Causal systems are scored as streams: hop by hop with the running peak as level, the
stream's offset trimmed; ``gain`` "utterance" is the same with the peak of the whole utterance, which no stream knows. Stages resume; runs
that are not there are left out of the table. Checkpoints are rounded to half precision, stored, and those are scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from quality import COLUMNS
from record import HERE, commit, digest, halve, hours_of, machine, recorded
from streaming import page
from torch import Tensor

from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.distill.inference import open_model, restore
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.distill.validation import score_system
from mfdistill.flow.config import IntervalConfig, TimeConfig
from mfdistill.metrics import measure_rtf, pesq_mode, summarise
from mfdistill.students.streaming import StreamRestorer
from mfdistill.teachers import CFMTeacher

Task = Literal["phase", "vocode", "enhance"]
System = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Options:
    """Train and score streams."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers, noises beside it."""
    tasks: tuple[Task, ...] = ("phase", "vocode", "enhance")
    stages: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")
    systems: tuple[Literal["teacher", "student", "regression", "full-teacher", "full-student", "student-of-full"], ...] = (
        "teacher", "student", "regression", "full-teacher", "full-student", "student-of-full",
    )
    """Which to train and score; 'full' sees later frames. Rows of the others stay in the table."""
    out: str = "runs/streaming"
    """Folder of the runs."""
    sample_rate: Literal[8000, 16000] = 8000
    teacher_steps: int = 6000
    student_steps: int = 1500
    regression_steps: int = 3000
    limit: int | None = None
    """Use at most so many test utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr", "lsd", "spksim", "dnsmos")


def main(options: Options) -> None:
    """All stages for all tasks."""
    for task in options.tasks:
        if "train" in options.stages:
            train(options, task)
        if "evaluate" in options.stages:
            record(options, task, evaluate(options, task))


def train(options: Options, task: Task) -> None:
    """The runs that are asked for, each resumed or skipped where it is done."""
    out, data = Path(options.out) / task, Corpus(source=options.data, crop_s=1.0)
    common = TrainConfig(batch_size=8, lr=2e-3, warmup=100, ema_decay=0.998, valid_every=0, save_every=100, log_every=20, resume=True)
    # a spread that follows the magnitude, around zero: a small network learns the phase faster from it than from Stream.FM's
    numbers = TaskOptions() if task == "enhance" else TaskOptions(sigma_0=1.0, prior_mean="zero", prior_shape="magnitude")
    times = TimeConfig("logit-normal", -2.0, 1.5) if task == "enhance" else TimeConfig()
    for name in options.systems:
        run = str(out / name)
        if "student" in name:
            student_distill(
                StudentDistill(
                    teacher=str(out / {"student": "teacher"}.get(name, "full-teacher")), causal=name == "student-of-full", data=data,
                    training=replace(common, out=run, steps=options.student_steps, batch_size=4, lr=1e-3, warmup=30),
                    valid=ValidOptions(0), integral=IntegralConfig(targets_per_rollout=3, interval=IntervalConfig(p_full=0.5)),
                )
            )
            continue
        steps = options.regression_steps if name == "regression" else options.teacher_steps
        teacher_train(
            TeacherTrain(
                task=task, sample_rate=options.sample_rate, causal=not name.startswith("full"), data=data, task_options=numbers,
                times=times, objective="regression" if name == "regression" else "cfm",
                training=replace(common, out=run, steps=steps), valid=ValidOptions(0),
            )
        )


def evaluate(options: Options, task: Task) -> list[dict[str, Any]]:
    """Rows of all systems whose runs are there."""
    from mfdistill.data import open_eval
    from mfdistill.distill.logs import say

    out, rows = Path(options.out) / task, []
    utterances = None
    for name in options.systems:
        if not (out / name / "model.safetensors").is_file():
            say(f"{out / name}: not trained, so it is left out")
            continue
        stored = halve(out / name, HERE / "models" / f"streaming-{task}-{name}")
        model = open_model(stored)
        if utterances is None:
            data = Corpus(source=options.data)
            utterances = open_eval(data, "test", model.task.degradation, options.sample_rate, limit=options.limit)
            rows.append(score(options, task, "unprocessed", 0, "", unprocessed(model.task), utterances))
        about = {
            "objective": (model.config.get("objective") or {}).get("name"), "network": "compact", "params": model.params,
            "train_hours": round(sum(hours_of(out / run) for run in (name, *BEHIND.get(name, ()))), 3),
            "checkpoint_sha256": digest(stored / "model.safetensors"),
            "claim": name == "student",            # declared before anything is measured
        }
        causal = model.task.config.stft.causal
        levels = ("running peak", "utterance") if causal and model.task.config.normalise == "peak" else ("utterance",)
        for nfe in (1, 5) if "teacher" in name else (1,):
            for gain in levels if name == "student" else levels[:1]:
                system = streamed(model, nfe, gain) if causal else whole(model, nfe)
                rows.append(score(options, task, name, nfe, gain, system, utterances) | about | {"streamed": causal})
    return [{column: row.get(column) for column in (*COLUMNS, "streamed", "gain")} for row in rows]


def unprocessed(task: Any) -> System:
    """What the task starts from."""
    return lambda wave, index: task.degrade(wave[None])[0]


def streamed(model: Any, nfe: int, gain: str) -> System:
    """Through a stream, aligned with the input."""
    own = model.module if model.role == "student" else CFMTeacher(model.module, model.task)

    def run(wave: Tensor, index: int) -> Tensor:
        level: Any = "peak" if gain == "running peak" else float(model.task.gain(wave[None]))
        restorer = StreamRestorer(own, nfe, gain=level, seeds=[index], temperature=0.0 if model.role == "regression" else 1.0)
        return torch.cat([restorer.push(wave), restorer.flush()[0]])

    return run


def whole(model: Any, nfe: int) -> System:
    """All frames at once, for networks that see later ones."""
    return lambda wave, index: restore(model.task, model.endpoint, wave, nfe, 0, index)


def score(options: Options, task: Task, name: str, nfe: int, gain: str, system: System, utterances: Any) -> dict[str, Any]:
    """One row."""
    rows = score_system(system, utterances, options.metrics, options.sample_rate)
    wave = utterances[0]["degraded"]
    return {
        "task": task, "model": name, "nfe": nfe, "schedule": "uniform" if nfe else "", "gain": gain, "claim": False, "train_hours": 0.0,
        "split": "test", "sample_rate": options.sample_rate, "pesq_mode": pesq_mode(options.sample_rate),
        "rtf": measure_rtf(lambda: system(wave, 0), len(wave) / options.sample_rate, 1) if nfe else None,
        "commit": commit(), "machine": machine(),
        **summarise([{key: value for key, value in row.items() if key != "utterance"} for row in rows]),
    }


BEHIND = {"student": ("teacher",), "full-student": ("full-teacher",), "student-of-full": ("full-teacher",)}
"""Whose training a student's hours include."""
KEY = ("task", "sample_rate", "model", "nfe", "gain")


def record(options: Options, task: Task, rows: list[dict[str, Any]]) -> None:
    """Put the rows into the recorded result, in the place of older ones of the same systems, and draw it."""
    from mfdistill.report import quality_plot, write_table

    stem = HERE / "results" / "streaming_quality"
    new = {tuple(row[key] for key in KEY) for row in rows}
    both = [row for row in recorded(stem.with_suffix(".json")) if tuple(row[key] for key in KEY) not in new] + rows
    both.sort(key=lambda row: (row["task"], row["sample_rate"], row["streamed"] is not None, row["model"], row["nfe"]))
    write_table(stem, both)
    columns = {"task": "task", "model": "", "nfe": "NFE", "gain": "level", "train_hours": "hours", "pesq": "PESQ", "estoi": "ESTOI"}
    page("streaming_quality.json", both, columns | {"sisdr": "SI-SDR", "lsd": "LSD", "n": "utterances", "rtf": "RTF"})
    quality_plot(both, stem.with_suffix(".png"), columns=("pesq", "estoi", "sisdr", "lsd"))


if __name__ == "__main__":
    main(tyro.cli(Options))
