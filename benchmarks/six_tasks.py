"""All six restoration tasks at one small budget: teacher at 1 and 5 steps, its student at 1, a
regression network of the same size, and the input as it is.

    python benchmarks/six_tasks.py --data ../shared/data

The budget is set in minutes of training for all tasks alike, so no row is what the task can do;
what is compared is what one step is worth in each. Every stage resumes where it was stopped,
finished ones are skipped. Writes benchmarks/results/six_tasks.json, .csv and .png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from record import HERE, commit, halve, hours_of, into, machine, precision, recorded, tables

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
from mfdistill.flow.config import IntervalConfig, TimeConfig
from mfdistill.networks.config import CompactSizes

TaskName = Literal["vocode", "phase", "enhance", "dereverb", "codec", "bandwidth"]
COLUMNS = (
    *(
        "task",
        "model",
        "nfe",
        "n",
        "sample_rate",
        "params",
        "train_hours",
        "pesq",
        "pesq_ci95",
        "estoi",
        "estoi_ci95",
    ),
    *(
        "sisdr",
        "sisdr_ci95",
        "lsd",
        "lsd_ci95",
        "spksim",
        "spksim_ci95",
        "dnsmos_ovrl",
        "dnsmos_ovrl_ci95",
    ),
    *("rtf", "teacher_steps", "student_steps", "regression_steps"),
    *("commit", "machine"),
)


@dataclass(frozen=True)
class Budget:
    """What every task is given."""

    sample_rate: Literal[8000, 16000] = 8000
    batch_size: int = 8
    channels: int = 64
    """Of the network."""
    crop_s: float = 1.0
    """Of a training sample."""
    teacher_steps: int = 1200
    regression_steps: int = 600
    student_steps: int = 200
    mixed_precision: Literal["no", "bf16"] = field(default_factory=precision)


@dataclass(frozen=True)
class Options:
    """Train, distil and evaluate every task."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers, noises beside it."""
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    out: str = "runs/six_tasks"
    budget: Budget = field(default_factory=Budget)
    limit: int = 20
    """Test utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr", "lsd", "spksim", "dnsmos")
    stages: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")


def main(options: Options) -> None:
    """All tasks, one after another; each one's rows are recorded as soon as it is measured."""
    for task in options.tasks:
        corpus = corpus_of(options.data, options.budget, task, Path(options.out))
        if "train" in options.stages:
            train(options.budget, task, corpus, Path(options.out) / task)
        if "evaluate" in options.stages:
            record(options, task, measure(options, task, corpus))


def corpus_of(data: str, budget: Budget, task: TaskName, out: Path) -> Corpus:
    """Encoding in every training step would take longer than the step: the codec's pairs are made
    beforehand.
    """
    if task != "codec":
        return Corpus(source=data, crop_s=budget.crop_s)
    folder = out / "codec-pairs"
    degrade(Degrade(task, data, str(folder), budget.sample_rate))
    return Corpus(source=str(folder), crop_s=budget.crop_s)


@dataclass(frozen=True)
class Recipe:
    """How a task is learnt in a few minutes."""

    numbers: TaskOptions
    integral: IntegralConfig
    from_regression: bool = False
    """The teacher starts as a regression network, since most of its flow is the mean of the speech,
    and sees mostly early times, where all that is uncertain is decided.
    """


# without a phase to start from: a spread that follows the magnitude, around zero; students learn
# the whole flow
FREE = Recipe(
    TaskOptions(sigma_0=1.0, prior_mean="zero", prior_shape="magnitude"),
    IntegralConfig(targets_per_rollout=2, interval=IntervalConfig(p_full=0.7), spectral=0.1),
)
# from the input: such teachers are best after about two steps, so those are the target
NEAR = Recipe(
    TaskOptions(),
    IntegralConfig(substeps=2, solver="euler", interval=IntervalConfig(p_full=0.75), spectral=0.05),
    from_regression=True,
)
RECIPES: dict[TaskName, Recipe] = {
    "vocode": FREE,
    "phase": FREE,
    "enhance": NEAR,
    "bandwidth": NEAR,
    **dict.fromkeys(
        ("dereverb", "codec"),
        replace(NEAR, numbers=TaskOptions(prior_shape="magnitude", sigma_0=0.3)),
    ),
}
TRAINING = TrainConfig(
    lr=2e-3, warmup=50, ema_decay=0.99, valid_every=0, save_every=100, log_every=50, resume=True
)


def train(budget: Budget, task: TaskName, corpus: Corpus, out: Path, causal: bool = False) -> None:
    """Regression network, teacher and student, each resumed or skipped where it is done."""
    recipe = RECIPES[task]
    common = replace(TRAINING, batch_size=budget.batch_size, mixed_precision=budget.mixed_precision)
    start = TeacherTrain(
        task=task,
        sample_rate=budget.sample_rate,
        causal=causal,
        data=corpus,
        valid=ValidOptions(valid_files=0),
        task_options=recipe.numbers,
        network=CompactSizes(channels=budget.channels),
        training=common,
    )
    regression, teacher, steps = (
        replace(start, objective="regression"),
        start,
        budget.regression_steps,
    )
    if recipe.from_regression:
        begun, steps = str(out / "start"), steps // 2
        teacher_train(replace(regression, training=replace(common, out=begun, steps=steps)))
        regression = replace(regression, init=begun)
        teacher = replace(
            start,
            init=begun,
            times=TimeConfig("logit-normal", -2.0, 1.5),
            training=replace(common, lr=1e-3),
        )
    regression = replace(regression, spectral=recipe.integral.spectral)
    teacher_train(
        replace(regression, training=replace(common, out=str(out / "regression"), steps=steps))
    )
    teacher_train(
        replace(
            teacher,
            training=replace(
                teacher.training, out=str(out / "teacher"), steps=budget.teacher_steps
            ),
        )
    )
    distil(budget, task, corpus, out / "teacher", out / "student")


def train_predicted(budget: Budget, task: TaskName, corpus: Corpus, out: Path) -> None:
    """A causal teacher behind the regression network of ``train(..., causal=True)``, with the
    preset's spread around its estimate and from random weights, and that teacher's student; as many
    updates as the pair without a predictor.
    """
    teacher_train(
        TeacherTrain(
            task=task,
            sample_rate=budget.sample_rate,
            causal=True,
            predictor=str(out / "regression"),
            data=corpus,
            valid=ValidOptions(valid_files=0),
            network=CompactSizes(channels=budget.channels),
            training=replace(
                TRAINING,
                out=str(out / "predicted-teacher"),
                steps=budget.teacher_steps,
                batch_size=budget.batch_size,
                mixed_precision=budget.mixed_precision,
            ),
        )
    )
    distil(budget, task, corpus, out / "predicted-teacher", out / "predicted-student")


def distil(
    budget: Budget, task: TaskName, corpus: Corpus, teacher: Path, out: Path, causal: bool = False
) -> None:
    """A student; ``causal``: one of a teacher that sees later frames."""
    student_distill(
        StudentDistill(
            teacher=str(teacher),
            causal=causal,
            data=corpus,
            valid=ValidOptions(valid_files=0),
            integral=RECIPES[task].integral,
            training=replace(
                TRAINING,
                out=str(out),
                steps=budget.student_steps,
                lr=1e-3,
                batch_size=budget.batch_size // 2,
                mixed_precision=budget.mixed_precision,
            ),
        )
    )


def hours(out: Path, name: str) -> float:
    """Of all training behind a run."""
    behind = [name.replace("student", "teacher"), name] if name.endswith("student") else [name]
    behind += ["regression"] if name.startswith("predicted") else []
    behind += ["start"] if (out / "start").is_dir() else []
    return round(sum(hours_of(out / run) for run in behind), 3)


def measure(options: Options, task: TaskName, corpus: Corpus) -> list[dict[str, Any]]:
    """Rows of the test split, of checkpoints in half precision."""
    runs = Path(options.out) / task
    stored = {
        name: str(halve(runs / name, runs / f"{name}-half"))
        for name in ("teacher", "student", "regression")
    }
    rows = evaluate(
        Evaluate(
            student=stored["student"],
            teacher=stored["teacher"],
            regression=stored["regression"],
            out=str(runs / "evaluation"),
            data=corpus,
            limit=options.limit,
            metrics=options.metrics,
            teacher_nfe=(1, 5),
            student_nfe=(1,),
            audio=2,
        )
    )
    spent = {"unprocessed": 0.0} | {name: hours(runs, name) for name in stored}
    steps = {
        f"{name}_steps": load_config(runs / name)["training"]["step"]
        for name in ("teacher", "student", "regression")
    }
    extra = {"commit": commit(), "machine": machine()} | steps
    found = [row | extra | {"train_hours": spent[row["model"]]} for row in rows]
    return [{column: row.get(column) for column in COLUMNS} for row in found]


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
    """Replace the task's rows in the recorded result, draw it, and put the table into
    docs/tasks.md.
    """
    from mfdistill.report import quality_plot, write_table

    stem = HERE / "results" / "six_tasks"
    others = [
        row
        for row in recorded(stem.with_suffix(".json"))
        if (row["task"], row["sample_rate"]) != (task, options.budget.sample_rate)
    ]
    both = [*others, *rows]
    write_table(stem, both)
    drawn = [row | {"schedule": "uniform", "objective": None, "claim": False} for row in both]
    quality_plot(drawn, stem.with_suffix(".png"), columns=("pesq", "estoi", "lsd"))
    into(HERE.parent / "docs" / "tasks.md", "six_tasks.json", tables(drawn, TABLE))


if __name__ == "__main__":
    main(tyro.cli(Options))
