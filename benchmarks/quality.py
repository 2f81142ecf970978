"""What distillation keeps, on real speech: trains, distils, searches and evaluates `vocode` and
`enhance` from one command.

    python benchmarks/quality.py --data ../shared/data

Every stage resumes where it was stopped; finished stages are skipped. Models are selected on
nothing but the validation split; the table is of the test split, whose speakers and noises no stage
before it has heard. The last stage rounds the checkpoints to half precision, stores them in
benchmarks/models, scores *those*, and writes benchmarks/results/quality.json and .png.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from record import HERE, commit, digest, halve, hours_of, into, machine, recorded, tables

from mfdistill.checkpoint import write_json
from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.evaluate import run as evaluate
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.os3_search import run as os3_search
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.distill.objectives.config import IntegralConfig, MeanFlowConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig, TimeConfig
from mfdistill.search.config import SearchConfig

# the row that the README quotes, declared before any is measured: model, objective, evaluations,
# schedule; and at which rate
CLAIM = ("student", "integral", 1, "uniform")
CLAIMED_RATE = {"vocode": 8000, "enhance": 16000}
COLUMNS = (
    *(
        "task",
        "model",
        "claim",
        "objective",
        "network",
        "nfe",
        "schedule",
        "times",
        "split",
        "sample_rate",
        "pesq_mode",
        "n",
        "params",
    ),
    *(
        "spectral",
        "train_hours",
        "pesq",
        "pesq_ci95",
        "estoi",
        "estoi_ci95",
        "sisdr",
        "sisdr_ci95",
        "dnsmos_ovrl",
        "dnsmos_ovrl_ci95",
    ),
    *(
        "spksim",
        "spksim_ci95",
        "lsd",
        "lsd_ci95",
        "rtf",
        "searched",
        "checkpoint_sha256",
        "commit",
        "machine",
    ),
)


@dataclass(frozen=True)
class Options:
    """Train, distil, search and evaluate on real speech."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers (see the README on data), noises beside it."""
    tasks: tuple[Literal["vocode", "enhance"], ...] = ("vocode", "enhance")
    stages: tuple[Literal["train", "search", "evaluate"], ...] = ("train", "search", "evaluate")
    out: str = "runs/quality"
    """Folder of the runs."""
    sample_rate: Literal[8000, 16000] | None = None
    """By default the rate of the task's claim: 8000 for vocode, 16000 for enhance."""
    batch_size: int = 8
    teacher_steps: int = 6000
    """Updates of the teacher."""
    student_steps: int = 1500
    """Updates of the student."""
    student_batch_size: int = 6
    """Crops per update of the student."""
    meanflow_steps: int = 600
    """Updates of the second student, by the objective 'meanflow'; 0 leaves it out."""
    continued_steps: int | None = None
    """Updates of the teacher that is trained on for comparison; default: as many as take the
    student's time.
    """
    regression_steps: int | None = None
    """Updates of the regression network; default: as many as take the time of teacher and
    student.
    """
    start_steps: int = 2000
    """Updates of the regression network that the teacher of enhance starts from."""
    search_limit: int = 16
    """Validation utterances that a schedule is scored on."""
    search_iterations: int = 6
    """Ternary steps per line of the search."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    workers: int = 1
    """Processes for PESQ and ESTOI."""
    limit: int | None = None
    """Use at most so many test utterances."""


def main(options: Options) -> None:
    """All stages for all tasks."""
    for task in options.tasks:
        own = replace(options, sample_rate=options.sample_rate or CLAIMED_RATE[task])
        if "train" in options.stages:
            train(own, task)
        if "search" in options.stages:
            search(own, task)
        if "evaluate" in options.stages:
            record(own, task, measure(own, task))


def label(options: Options, task: str) -> str:
    """Of the task's folders: its name, with the rate where that is not 16 kHz."""
    return task if options.sample_rate == 16000 else f"{task}-{(options.sample_rate or 0) // 1000}k"


# teachers that start as a regression network: most of such a flow is the mean of the speech
FROM_REGRESSION = ("enhance",)
# Students. vocode: as the IntMeanFlow paper, by a better rule. enhance: its teachers are best at
# two steps, so those are the target.
INTEGRAL = {
    "vocode": IntegralConfig(
        targets_per_rollout=2, interval=IntervalConfig(p_full=0.7), spectral=0.1
    ),
    "enhance": IntegralConfig(
        substeps=2, solver="euler", interval=IntervalConfig(p_full=0.75), spectral=0.02
    ),
}


def train(options: Options, task: Literal["vocode", "enhance"]) -> None:
    """Teacher, students, the teacher trained on, and a regression network."""
    out = Path(options.out) / label(options, task)
    corpus = Corpus(source=options.data)
    common = TrainConfig(
        batch_size=options.batch_size,
        lr=2e-3,
        warmup=100,
        ema_decay=0.998,
        mixed_precision=options.mixed_precision,
        valid_every=1000,
        save_every=200,
        log_every=50,
        resume=True,
    )
    network = TeacherTrain(
        task=task,
        sample_rate=options.sample_rate or 16000,
        data=corpus,
        training=common,
        valid=ValidOptions(valid_files=6),
    )
    teacher = replace(
        network,
        training=replace(common, out=str(out / "teacher"), steps=options.teacher_steps),
        valid=ValidOptions(6, (1, 10)),
    )
    regression = replace(network, objective="regression", spectral=INTEGRAL[task].spectral)
    if task in FROM_REGRESSION:
        start = replace(
            network,
            objective="regression",
            training=replace(common, out=str(out / "start"), steps=options.start_steps),
        )
        teacher_train(start)
        # its spread is small, so that all that is uncertain is decided close to t = 0: half the
        # draws are below 0.12
        teacher = replace(
            teacher,
            init=str(out / "start"),
            times=TimeConfig("logit-normal", -2.0, 1.5),
            training=replace(teacher.training, lr=1e-3),
        )
        regression = replace(regression, init=str(out / "start"))
    teacher_train(teacher)
    student = StudentDistill(
        teacher=str(out / "teacher"),
        data=corpus,
        integral=INTEGRAL[task],
        valid=ValidOptions(valid_files=6, valid_nfe=(1, 2)),
        training=replace(
            common,
            out=str(out / "student"),
            steps=options.student_steps,
            batch_size=options.student_batch_size,
            lr=1e-3,
            valid_every=200,
        ),
    )
    student_distill(student)
    if options.meanflow_steps:
        student_distill(
            replace(
                student,
                objective="meanflow",
                meanflow=MeanFlowConfig(p_full=0.25),
                training=replace(
                    student.training,
                    out=str(out / "student-meanflow"),
                    steps=options.meanflow_steps,
                ),
            )
        )
    pace, spent = options.teacher_steps / hours_of(out / "teacher"), hours_of(out / "student")
    teacher_train(
        replace(
            teacher,
            init=str(out / "teacher"),
            valid=ValidOptions(valid_files=6, valid_nfe=(1,)),
            training=replace(
                common,
                out=str(out / "cfm-continued"),
                steps=options.continued_steps or round(pace * spent),
                lr=1e-3,
            ),
        )
    )
    steps = options.regression_steps or round(pace * (hours_of(out / "teacher") + spent))
    teacher_train(
        replace(regression, training=replace(common, out=str(out / "regression"), steps=steps))
    )


def search(options: Options, task: str) -> None:
    """O3S at 2 and 3 evaluations on validation speakers, by speaker similarity (vocode: the metric
    of the paper) or PESQ.
    """
    for nfe in (2, 3):
        os3_search(
            OS3Search(
                student=str(Path(options.out) / label(options, task) / "student"),
                data=Corpus(source=options.data),
                search=SearchConfig(
                    nfe=nfe,
                    metric=SEARCHED[task],
                    limit=options.search_limit,
                    iterations=options.search_iterations,
                    workers=options.workers,
                ),
            )
        )


SEARCHED = {"vocode": "spksim", "enhance": "pesq"}


def measure(options: Options, task: str) -> list[dict[str, Any]]:
    """Score the half-precision checkpoints on the test split; rows as the file wants them."""
    runs, models = Path(options.out) / label(options, task), HERE / "models"
    stored = {
        name: halve(runs / name, models / f"{label(options, task)}-{name}")
        for name in ("teacher", "student")
    }
    others = [
        name
        for name in ("cfm-continued", "regression", "student-meanflow")
        if (runs / name / "model.safetensors").is_file()
    ]
    stored |= {name: halve(runs / name, runs / f"{name}-half") for name in others}
    common = Evaluate(
        data=Corpus(source=options.data), split="test", limit=options.limit, workers=options.workers
    )
    scores = evaluate(
        replace(
            common,
            out=str(runs / "evaluation"),
            teacher=str(stored["teacher"]),
            student=str(stored["student"]),
            regression=str(stored["regression"]),
        )
    )
    continued = evaluate(
        replace(
            common,
            out=str(runs / "evaluation-continued"),
            teacher=str(stored["cfm-continued"]),
            teacher_nfe=(1,),
        )
    )
    scores += [row | {"model": "cfm-continued"} for row in continued if row["model"] == "teacher"]
    if "student-meanflow" in others:
        second = evaluate(
            replace(
                common,
                out=str(runs / "evaluation-meanflow"),
                student=str(stored["student-meanflow"]),
            )
        )
        scores += [row for row in second if row["model"] == "student"]
    start = hours_of(runs / "start") if task in FROM_REGRESSION else 0.0
    hours = {
        "unprocessed": 0.0,
        "regression": start + hours_of(runs / "regression"),
        "teacher": start + hours_of(runs / "teacher"),
    }
    hours |= {
        name: hours["teacher"] + hours_of(runs / name)
        for name in ("student", *others)
        if name != "regression"
    }
    rows = []
    for score in scores:
        model, made = score["model"], score["objective"]
        run = "student-meanflow" if (model, made) == ("student", "meanflow") else model
        extra = {
            "train_hours": round(hours[run], 3),
            "spectral": INTEGRAL[task].spectral
            if model == "regression" or (model, made) == ("student", "integral")
            else None,
            "searched": SEARCHED[task] if score["schedule"] == "o3s" else None,
            "checkpoint_sha256": digest(stored[run] / "model.safetensors")
            if run in stored
            else None,
            "commit": commit(),
            "machine": machine(),
        }
        row = score | extra
        rows.append({column: row.get(column) for column in COLUMNS})
    return rows


TABLE = {
    "train_hours": "hours",
    "pesq": "PESQ",
    "estoi": "ESTOI",
    "sisdr": "SI-SDR",
    "lsd": "LSD",
    "spksim": "speaker similarity",
    "dnsmos_ovrl": "DNSMOS",
    "rtf": "RTF",
}


def record(options: Options, task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the task's rows in the recorded result and draw it."""
    from mfdistill.report import quality_plot, write_table

    stem = HERE / "results" / "quality"
    others = [
        row
        for row in recorded(stem.with_suffix(".json"))
        if (row["task"], row["sample_rate"]) != (task, options.sample_rate)
    ]
    both = [*others, *rows]
    both = [row | {"claim": claimed(row)} for row in both]
    write_table(stem, both)
    into(HERE.parent / "README.md", "quality.json", tables(both, TABLE))
    drawn = [row | {"task": f"{row['task']}, {row['sample_rate'] // 1000} kHz"} for row in both]
    quality_plot(
        drawn,
        stem.with_suffix(".png"),
        columns=("pesq", "estoi", "sisdr", "dnsmos_ovrl", "spksim", "lsd"),
    )
    for nfe in (2, 3):
        found = Path(options.out) / label(options, task) / "student" / f"o3s-{nfe}"
        if found.with_suffix(".json").is_file():
            write_json(
                HERE / "results" / f"o3s-{label(options, task)}-{nfe}.json",
                json.loads(found.with_suffix(".json").read_text()),
            )
            (HERE / "results" / f"o3s-{label(options, task)}-{nfe}.png").write_bytes(
                found.with_suffix(".png").read_bytes()
            )


def claimed(row: dict[str, Any]) -> bool:
    """Whether a row is its task's claim."""
    return (row["model"], row["objective"], row["nfe"], row["schedule"]) == CLAIM and row[
        "sample_rate"
    ] == CLAIMED_RATE[row["task"]]


if __name__ == "__main__":
    main(tyro.cli(Options))
