"""All six restoration tasks at one small budget: teacher at 1 and 5 steps, its student at 1, a regression network of the same size, and
the input as it is.

    python benchmarks/six_tasks.py --data ../shared/data

The budget is set in minutes of training for all tasks alike, so no row is what the task can do; what is compared is what one step is worth
in each. Every stage resumes where it was stopped, finished ones are skipped. Writes benchmarks/results/six_tasks.json, .csv and .png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from record import HERE, commit, halve, hours_of, into, machine, recorded, tables

from mfdistill.checkpoint import load_config
from mfdistill.commands.degrade import Degrade
from mfdistill.commands.degrade import run as degrade
from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.evaluate import run as evaluate
from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig
from mfdistill.networks.config import CompactSizes

TaskName = Literal["vocode", "phase", "enhance", "dereverb", "codec", "bandwidth"]
COLUMNS = (
    *("task", "model", "nfe", "n", "sample_rate", "params", "train_hours", "pesq", "pesq_ci95", "estoi", "estoi_ci95"),
    *("sisdr", "sisdr_ci95", "lsd", "lsd_ci95", "spksim", "spksim_ci95", "rtf", "teacher_steps", "student_steps", "regression_steps"),
    *("commit", "machine"),
)


@dataclass(frozen=True)
class Options:
    """Train, distil and evaluate every task."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers, noises beside it."""
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    out: str = "runs/six_tasks"
    sample_rate: Literal[8000, 16000] = 8000
    batch_size: int = 8
    channels: int = 64
    """Of the network."""
    crop_s: float = 2.0
    """Of a training sample."""
    teacher_steps: int = 2000
    regression_steps: int = 1000
    student_steps: int = 500
    limit: int = 12
    """Test utterances."""
    prior: Literal["preset", "magnitude"] = "preset"
    """The presets' spreads, or one in proportion to the magnitude of the input for every task whose flow starts at its input."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr", "lsd", "spksim")
    stages: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")


def main(options: Options) -> None:
    """All tasks, one after another; each one's rows are recorded as soon as it is measured."""
    for task in options.tasks:
        corpus = corpus_of(options, task)
        if "train" in options.stages:
            train(options, task, corpus)
        if "evaluate" in options.stages:
            record(options, task, measure(options, task, corpus))


def corpus_of(options: Options, task: TaskName) -> Corpus:
    """Encoding in every training step would take longer than the step: the codec's pairs are made beforehand."""
    if task != "codec":
        return Corpus(source=options.data, crop_s=options.crop_s)
    folder = Path(options.out) / "codec-pairs"
    degrade(Degrade(task, options.data, str(folder), options.sample_rate))
    return Corpus(source=str(folder), crop_s=options.crop_s)


def train(options: Options, task: TaskName, corpus: Corpus) -> None:
    """Regression network, teacher, student."""
    out = Path(options.out) / task
    common = TrainConfig(
        batch_size=options.batch_size, lr=2e-3, warmup=50, ema_decay=0.99, valid_every=0, save_every=100, log_every=50, resume=True
    )
    spread = TaskOptions(prior_shape="magnitude", sigma_0=0.3) if options.prior == "magnitude" and task != "vocode" else TaskOptions()
    start = TeacherTrain(
        task=task, sample_rate=options.sample_rate, data=corpus, valid=ValidOptions(valid_files=0), task_options=spread,
        network=CompactSizes(channels=options.channels), training=common,
    )
    teacher_train(
        replace(start, objective="regression", training=replace(common, out=str(out / "regression"), steps=options.regression_steps))
    )
    teacher_train(replace(start, training=replace(common, out=str(out / "teacher"), steps=options.teacher_steps)))
    student_distill(
        StudentDistill(
            teacher=str(out / "teacher"), data=corpus, valid=ValidOptions(valid_files=0),
            training=replace(common, out=str(out / "student"), steps=options.student_steps, lr=1e-3, batch_size=options.batch_size // 2),
            integral=IntegralConfig(targets_per_rollout=3, interval=IntervalConfig(p_full=0.5)),
        )
    )


def measure(options: Options, task: TaskName, corpus: Corpus) -> list[dict[str, Any]]:
    """Rows of the test split, of checkpoints in half precision."""
    runs = Path(options.out) / task
    stored = {name: str(halve(runs / name, runs / f"{name}-half")) for name in ("teacher", "student", "regression")}
    rows = evaluate(
        Evaluate(
            **stored, out=str(runs / "evaluation"), data=corpus, limit=options.limit, metrics=options.metrics, teacher_nfe=(1, 5),
            student_nfe=(1,), audio=2,
        )
    )
    hours = {"unprocessed": 0.0, "regression": hours_of(runs / "regression"), "teacher": hours_of(runs / "teacher")}
    hours["student"] = hours["teacher"] + hours_of(runs / "student")
    steps = {f"{name}_steps": load_config(runs / name)["training"]["step"] for name in ("teacher", "student", "regression")}
    extra = {"commit": commit(), "machine": machine()} | steps
    found = [row | extra | {"train_hours": round(hours[row["model"]], 3)} for row in rows]
    return [{column: row.get(column) for column in COLUMNS} for row in found]


TABLE = {
    "train_hours": "hours", "pesq": "PESQ", "estoi": "ESTOI", "sisdr": "SI-SDR", "lsd": "LSD", "spksim": "speaker similarity", "rtf": "RTF",
}


def record(options: Options, task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the task's rows in the recorded result, draw it, and put the table into docs/tasks.md."""
    from mfdistill.report import quality_plot, write_table

    stem = HERE / "results" / "six_tasks"
    others = [row for row in recorded(stem.with_suffix(".json")) if (row["task"], row["sample_rate"]) != (task, options.sample_rate)]
    both = [*others, *rows]
    write_table(stem, both)
    drawn = [row | {"schedule": "uniform", "objective": None, "claim": False} for row in both]
    quality_plot(drawn, stem.with_suffix(".png"), columns=("pesq", "estoi", "sisdr", "lsd"))
    into(HERE.parent / "docs" / "tasks.md", "six_tasks.json", tables(drawn, TABLE))


if __name__ == "__main__":
    main(tyro.cli(Options))
