"""What causality and one evaluation cost: phase retrieval, vocoding and enhancement, scored on
streamed audio.

    python benchmarks/streaming_quality.py --data ../shared/data

Trains, for every task and with the recipe of six_tasks.py, a causal teacher, its one-step student,
a regression network of the same size, all three without causality ("full", those of six_tasks.py
where they are there), and a causal student of the teacher that sees everything; for enhancement
also a causal teacher and student behind that regression network ("predicted": one evaluation more
than NFE says).
Causal systems are scored as streams: hop by hop with the running peak as level, the stream's offset
trimmed; ``gain`` "utterance" is the same with the peak of the whole utterance, which no stream
knows. Stages resume. Checkpoints are rounded to half precision, and those are scored; the causal
ones are stored in benchmarks/models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from record import HERE, commit, digest, halve, hours_of, machine, recorded
from six_tasks import Budget, corpus_of, distil, hours, train, train_predicted
from streaming import page
from torch import Tensor

from mfdistill.commands.options import Corpus
from mfdistill.distill.inference import restore
from mfdistill.distill.opening import open_model
from mfdistill.distill.validation import score_system
from mfdistill.metrics import measure_rtf, pesq_mode, summarise
from mfdistill.students.streaming import StreamRestorer
from mfdistill.teachers import Field

Task = Literal["phase", "vocode", "enhance"]
System = Callable[[Tensor, int], Tensor]
COLUMNS = (
    "task model claim objective network nfe schedule split sample_rate pesq_mode n params "
    "train_hours pesq pesq_ci95 estoi estoi_ci95 sisdr sisdr_ci95 dnsmos_ovrl dnsmos_ovrl_ci95 "
    "spksim spksim_ci95 lsd lsd_ci95 rtf checkpoint_sha256 commit machine streamed gain"
).split()


@dataclass(frozen=True)
class Options:
    """Train and score streams."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers, noises beside it."""
    tasks: tuple[Task, ...] = ("phase", "vocode", "enhance")
    stages: tuple[Literal["train", "evaluate"], ...] = ("train", "evaluate")
    out: str = "runs/streaming"
    """Folder of the causal runs."""
    full: str = "runs/six_tasks"
    """Folder of the runs that see later frames; those that are not there are trained."""
    budget: Budget = field(default_factory=Budget)
    limit: int = 12
    """Test utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "sisdr", "lsd", "spksim", "dnsmos")


def main(options: Options) -> None:
    """All stages for all tasks."""
    for task in options.tasks:
        if "train" in options.stages:
            corpus = corpus_of(options.data, options.budget, task, Path(options.full))
            out, full = Path(options.out) / task, Path(options.full) / task
            train(options.budget, task, corpus, full)
            train(options.budget, task, corpus, out, causal=True)
            distil(
                options.budget, task, corpus, full / "teacher", out / "student-of-full", causal=True
            )
            if task == "enhance":
                train_predicted(options.budget, task, corpus, out)
        if "evaluate" in options.stages:
            record(options, task, evaluate(options, task))


STORED = ("teacher", "student", "regression")


def runs(options: Options, task: Task) -> dict[str, tuple[Path, float]]:
    """Folder and hours of training of every system."""
    out, full = Path(options.out) / task, Path(options.full) / task
    own = (
        "regression",
        "teacher",
        "student",
        *(("predicted-teacher", "predicted-student") if task == "enhance" else ()),
    )
    found = {name: (out / name, hours(out, name)) for name in own}
    found["student-of-full"] = (
        out / "student-of-full",
        round(hours(full, "teacher") + hours_of(out / "student-of-full"), 3),
    )
    return found | {
        f"full-{name}": (full / name, hours(full, name))
        for name in ("regression", "teacher", "student")
    }


def evaluate(options: Options, task: Task) -> list[dict[str, Any]]:
    """Rows of all systems."""
    from mfdistill.data import open_eval

    rows: list[dict[str, Any]] = []
    for name, (folder, spent) in runs(options, task).items():
        stored = halve(
            folder,
            HERE / "models" / f"streaming-{task}-{name}"
            if name in STORED
            else folder.with_name(f"{name}-half"),
        )
        model = open_model(stored)
        utterances = open_eval(
            Corpus(source=options.data),
            "test",
            model.task.degradation,
            options.budget.sample_rate,
            limit=options.limit,
        )
        if not rows:
            rows.append(
                score(options, task, "unprocessed", 0, "", unprocessed(model.task), utterances)
            )
        about = {
            "objective": (model.config.get("objective") or {}).get("name"),
            "network": "compact",
            "params": model.params,
            "train_hours": spent,
            "checkpoint_sha256": digest(stored / "model.safetensors"),
            "claim": name == "student",  # declared before anything is measured
        }
        causal = model.task.config.stft.causal
        levels = (
            ("running peak", "utterance")
            if causal and model.task.config.normalise == "peak"
            else ("utterance",)
        )
        for nfe in (1, 5) if "teacher" in name else (1,):
            for gain in levels if name == "student" else levels[:1]:
                system = streamed(model, nfe, gain) if causal else whole(model, nfe)
                rows.append(
                    score(options, task, name, nfe, gain, system, utterances)
                    | about
                    | {"streamed": causal}
                )
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def unprocessed(task: Any) -> System:
    """What the task starts from."""
    return lambda wave, index: task.degrade(wave[None])[0]


def streamed(model: Any, nfe: int, gain: str) -> System:
    """Through a stream, aligned with the input."""
    own = model.module if model.role == "student" else Field(model.module, model.task)

    def run(wave: Tensor, index: int) -> Tensor:
        level: Any = "peak" if gain == "running peak" else float(model.task.gain(wave[None]))
        restorer = StreamRestorer(
            own,
            nfe,
            gain=level,
            seeds=[index],
            temperature=0.0 if model.role == "regression" else 1.0,
        )
        return torch.cat([restorer.push(wave), restorer.flush()[0]])

    return run


def whole(model: Any, nfe: int) -> System:
    """All frames at once, for networks that see later ones."""
    return lambda wave, index: restore(model.task, model.endpoint, wave, nfe, 0, index)


def score(
    options: Options, task: Task, name: str, nfe: int, gain: str, system: System, utterances: Any
) -> dict[str, Any]:
    """One row."""
    rows = score_system(system, utterances, options.metrics, options.budget.sample_rate)
    wave = utterances[0]["degraded"]
    return {
        "task": task,
        "model": name,
        "nfe": nfe,
        "schedule": "uniform" if nfe else "",
        "gain": gain,
        "claim": False,
        "train_hours": 0.0,
        "split": "test",
        "sample_rate": options.budget.sample_rate,
        "pesq_mode": pesq_mode(options.budget.sample_rate),
        "rtf": measure_rtf(lambda: system(wave, 0), len(wave) / options.budget.sample_rate, 1)
        if nfe
        else None,
        "commit": commit(),
        "machine": machine(),
        **summarise(
            [{key: value for key, value in row.items() if key != "utterance"} for row in rows]
        ),
    }


KEY = ("task", "sample_rate", "model", "nfe", "gain")


def record(options: Options, task: Task, rows: list[dict[str, Any]]) -> None:
    """Put the rows into the recorded result, in the place of older ones of the same systems, and
    draw it.
    """
    from mfdistill.report import quality_plot, write_table

    stem = HERE / "results" / "streaming_quality"
    new = {tuple(row[key] for key in KEY) for row in rows}
    both = [
        row
        for row in recorded(stem.with_suffix(".json"))
        if tuple(row[key] for key in KEY) not in new
    ] + rows
    both.sort(
        key=lambda row: (
            row["task"],
            row["sample_rate"],
            row["streamed"] is not None,
            row["model"],
            row["nfe"],
        )
    )
    write_table(stem, both)
    columns = {
        "task": "task",
        "model": "",
        "nfe": "NFE",
        "gain": "level",
        "train_hours": "hours",
        "pesq": "PESQ",
        "estoi": "ESTOI",
    }
    page(
        "streaming_quality.json",
        both,
        columns | {"sisdr": "SI-SDR", "lsd": "LSD", "n": "utterances", "rtf": "RTF"},
    )
    quality_plot(both, stem.with_suffix(".png"), columns=("pesq", "estoi", "lsd"))


if __name__ == "__main__":
    main(tyro.cli(Options))
