"""At equal numbers of network evaluations: Euler's equal steps, a classical solver of higher order,
a learned solver (Stream.FM), a MeanFlow student with equal steps, and the same student with its
steps placed by O3S (IntMeanFlow).

    python benchmarks/solvers.py --data ../shared/data

Takes teachers and students that are there (by default one pair of benchmarks/models and two of
six_tasks.py) and trains only the solvers, one for every teacher and number of evaluations. At one
evaluation a solver is Euler's step, so it has no row of its own. Everything resumes. Writes
benchmarks/results/solvers.json and .png and the table in docs/solvers.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from record import HERE, commit, into, machine, recorded

from mfdistill.checkpoint import load_config
from mfdistill.commands.evaluate import Evaluate
from mfdistill.commands.evaluate import run as evaluate
from mfdistill.commands.options import Corpus
from mfdistill.commands.os3_search import OS3Search
from mfdistill.commands.os3_search import run as os3_search
from mfdistill.commands.solver_train import SolverTrain
from mfdistill.commands.solver_train import run as solver_train
from mfdistill.search.config import SearchConfig, SolverConfig

MODELS = HERE / "models"


@dataclass(frozen=True)
class Options:
    """Train solvers, search schedules, compare."""

    data: str = "../shared/data"
    pairs: tuple[tuple[str, str], ...] = (
        (str(MODELS / "vocode-8k-teacher"), str(MODELS / "vocode-8k-student")),
        ("runs/six_tasks/phase/teacher", "runs/six_tasks/phase/student"),
        ("runs/six_tasks/dereverb/teacher", "runs/six_tasks/dereverb/student"),
    )
    """Folders of teacher and student, teacher and student, ..."""
    nfe: tuple[int, ...] = (1, 2, 4, 5)
    out: str = "runs/solvers"
    steps: int = 200
    """Updates of every solver."""
    batch_size: int = 4
    crop_s: float = 1.0
    search_limit: int = 8
    """Validation utterances that a schedule is scored on."""
    search_iterations: int = 3
    search_metric: str = "pesq"
    search_nfe: tuple[int, ...] = (2, 4, 5)
    limit: int = 20
    """Test utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "lsd", "spksim")
    workers: int = 1


CLASSICAL = {2: "midpoint", 4: "2xmidpoint", 5: "2xmidpoint+1xeuler@0.2"}
"""By their evaluations."""


def main(options: Options) -> None:
    """All tasks, one after another; each one's rows are recorded as soon as it is measured."""
    for teacher, student in options.pairs:
        record(compare(options, teacher, student))


def compare(options: Options, teacher: str, student: str) -> list[dict[str, Any]]:
    """Rows of one task."""
    task = load_config(teacher)["task"]
    out, corpus = (
        Path(options.out) / task["name"],
        Corpus(source=options.data, crop_s=options.crop_s),
    )
    solvers = {nfe: str(out / f"learned-{nfe}") for nfe in options.nfe if nfe > 1}
    for nfe, folder in solvers.items():
        command = SolverTrain(
            teacher=teacher, data=corpus, solver=SolverConfig(nfe=nfe), valid_files=0
        )
        training = replace(
            command.training,
            out=folder,
            steps=options.steps,
            batch_size=options.batch_size,
            lr=1e-2,
            ema_decay=0.9,
            valid_every=0,
            save_every=20,
            log_every=10,
            resume=True,
        )
        solver_train(replace(command, training=training))
    own = out / "student"
    # a copy: the search writes its schedules into it
    if not (own / "config.json").is_file():
        own.mkdir(parents=True, exist_ok=True)
        for name in ("model.safetensors", "config.json"):
            (own / name).write_bytes((Path(student) / name).read_bytes())
        config = json.loads((own / "config.json").read_text()) | {"schedules": {}}
        (own / "config.json").write_text(json.dumps(config))
    for nfe in options.search_nfe:
        if str(nfe) not in (load_config(own).get("schedules") or {}):
            search = SearchConfig(
                nfe=nfe,
                metric=options.search_metric,
                limit=options.search_limit,
                iterations=options.search_iterations,
                workers=options.workers,
                starts=("uniform",),
            )
            os3_search(OS3Search(student=str(own), data=corpus, search=search))
    classical = [CLASSICAL[nfe] for nfe in options.nfe if nfe in CLASSICAL]
    rows = evaluate(
        Evaluate(
            student=str(own),
            teacher=teacher,
            out=str(out / "evaluation"),
            data=corpus,
            limit=options.limit,
            metrics=options.metrics,
            teacher_nfe=options.nfe,
            student_nfe=options.nfe,
            teacher_solver=(*solvers.values(), *classical),
            audio=0,
            workers=options.workers,
        )
    )
    common = {
        "sample_rate": task["stft"]["sample_rate"],
        "steps": options.steps,
        "commit": commit(),
        "machine": machine(),
    }
    columns = [
        key for key in rows[-1] if key == "n" or key.removesuffix("_ci95") in options.metrics
    ]
    named = [
        (row, {"task": task["name"], "system": name_of(row), "nfe": row["nfe"]}) for row in rows
    ]
    return [about | {key: row.get(key) for key in columns} | common for row, about in named]


def name_of(row: Mapping[str, Any]) -> str:
    """Of a row of evaluate."""
    if row["model"] == "teacher":
        return {"uniform": "Euler"}.get(row["schedule"]) or (
            "classical" if row["schedule"] in CLASSICAL.values() else "learned solver"
        )
    steps = "O3S" if row["schedule"] == "o3s" else "equal steps"
    return f"student, {steps}" if row["model"] == "student" else row["model"]


def record(rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the task's rows in the recorded result; figure; table in the docs."""
    from mfdistill.checkpoint import write_json
    from mfdistill.report import markdown_table

    stem = HERE / "results" / "solvers"
    both = [
        row for row in recorded(stem.with_suffix(".json")) if row["task"] != rows[0]["task"]
    ] + [dict(row) for row in rows]
    write_json(stem.with_suffix(".json"), both)
    draw(both, stem.with_suffix(".png"))
    columns = {
        "system": "",
        "nfe": "evaluations",
        "pesq": "PESQ",
        "estoi": "ESTOI",
        "lsd": "LSD",
        "spksim": "speaker similarity",
    }
    parts = []
    for task in dict.fromkeys(row["task"] for row in both):
        own = sorted(
            (row for row in both if row["task"] == task),
            key=lambda row: (row["nfe"], row["system"]),
        )
        first = own[0]
        about = f"`{task}`, {first['sample_rate'] // 1000} kHz, {first['n']} test utterances, solvers learned in {first['steps']} updates"
        table = markdown_table(own, {key: value for key, value in columns.items() if key in first})
        parts.append(f"{about} ({first['machine']}):\n\n{table}\n")
    into(HERE.parent / "docs" / "solvers.md", "solvers.json", "\n".join(parts))


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """PESQ and log-spectral distance against evaluations, a row of panels per metric, a column per
    task.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    metrics = [key for key in ("pesq", "lsd") if key in rows[0]]
    figure, axes = pyplot.subplots(
        len(metrics), len(tasks), figsize=(4 * len(tasks), 3.2 * len(metrics)), squeeze=False
    )
    for i, metric in enumerate(metrics):
        for j, task in enumerate(tasks):
            axis = axes[i][j]
            for system in (
                "Euler",
                "classical",
                "learned solver",
                "student, equal steps",
                "student, O3S",
            ):
                own = sorted(
                    (row["nfe"], row[metric])
                    for row in rows
                    if row["task"] == task and row["system"] == system
                )
                if own:
                    axis.plot(*zip(*own, strict=True), marker="o", label=system)
            before = next(
                row[metric]
                for row in rows
                if row["task"] == task and row["system"] == "unprocessed"
            )
            axis.axhline(before, color="grey", linestyle=":", label="unprocessed")
            axis.set(title=task, xlabel="network evaluations", ylabel=metric.upper())
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
