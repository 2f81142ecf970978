"""Speech units to Mel (CosyVoice's setting) on real speech: trains, distils, finishes, searches and
evaluates from one command.

    python benchmarks/token_to_mel.py --data ../shared/data

The units say little (one level of 256, 31 per second, and the pitch), so that one input has many
answers and steps matter. Every stage resumes where it was stopped; finished stages are skipped.
Temperature and schedules are chosen on validation speakers; the table is of the test split, whose
speakers no stage before it has heard. The beginning of an utterance (3 s, at most 40 %) is its
prompt; the generated rest is scored. Writes benchmarks/results/token_to_mel.json, .csv and .png.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from record import HERE, commit, halve, hours_of, into, machine, precision
from scores import Scored, System, score_systems
from stages import search_steps

from mfdistill.checkpoint import write_json
from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.student_finish import StudentFinish
from mfdistill.commands.student_finish import run as student_finish
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.data import open_eval
from mfdistill.distill.finishing.config import FinishConfig
from mfdistill.distill.logs import say
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.opening import open_model
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow.config import IntervalConfig
from mfdistill.metrics import differences, scoring_pool, summarise
from mfdistill.networks.frames_config import FramesSizes
from mfdistill.report import markdown_table, write_table
from mfdistill.report.tables import header
from mfdistill.search.config import SearchConfig

Stage = Literal["train", "distil", "finish", "search", "evaluate", "store"]
SHOWN = ("spksim", "mcd", "fd_speaker", "fd_frames", "wer", "lsd", "vuv_f1", "rtf")
DRAWN = ("spksim", "mcd", "fd_frames", "wer")


@dataclass(frozen=True)
class Options:
    """Token-to-Mel on real speech."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers."""
    stages: tuple[Stage, ...] = ("train", "distil", "finish", "search", "evaluate")
    out: str = "runs/token2mel"
    """Folder of the runs."""
    results: str = str(HERE / "results")
    """Folder of the recorded result; the page in docs/ is only written with the default."""
    vocoder: str = os.path.relpath(HERE / "models" / "vocode-finished")
    """A vocode model with the same Mel spectrogram."""
    units: int = 256
    levels: int = 1
    channels: int = 160
    blocks: int = 6
    attention: int = 3
    """Of the network; every so many blocks are followed by self-attention."""
    teacher_steps: int = 4000
    student_steps: int = 500
    finish_steps: int = 600
    temperature: float = 0.4
    """Of the noise that every system starts from, chosen on validation speakers for the teacher at
    16 steps among 0, 0.4, 0.667 and 1; training draws all of it.
    """
    limit: int = 24
    """Test utterances; they go through the speakers in turn."""
    search_limit: int = 10
    """Validation utterances, one of each speaker, that a schedule is scored on."""
    metrics: tuple[str, ...] = ("spksim", "lsd", "mcd", "voicing", "wer", "fd_speaker", "fd_frames")
    mixed_precision: Literal["no", "bf16"] = field(default_factory=precision)


def main(options: Options) -> None:
    """The stages in their order."""
    run = {
        "train": train, "distil": distil, "finish": finish, "search": search, "evaluate": evaluate,
        "store": store,
    }  # fmt: skip
    for stage in options.stages:
        run[stage](options)


def settings(options: Options) -> TrainConfig:
    """What all runs share."""
    return TrainConfig(
        batch_size=8, warmup=100, mixed_precision=options.mixed_precision, valid_every=0,
        save_every=200, log_every=50, resume=True,
    )  # fmt: skip


def train(options: Options) -> None:
    """The teacher, on units that are learnt first."""
    teacher_train(
        TeacherTrain(
            task="token2mel", data=Corpus(source=options.data), task_options=TaskOptions(temperature=options.temperature),
            training=replace(
                settings(options), out=str(Path(options.out) / "teacher"), steps=options.teacher_steps,
                lr=2e-3, ema_decay=0.999,
            ),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            speech=SpeechOptions(units=options.units, levels=options.levels, vocoder=options.vocoder),
            frames=FramesSizes(channels=options.channels, blocks=options.blocks, attention=options.attention),
        )
    )  # fmt: skip


def distil(options: Options) -> None:
    """The student by the integral objective: midpoint, 4 substeps; half of the intervals are the
    whole flow.
    """
    student_distill(
        StudentDistill(
            teacher=str(Path(options.out) / "teacher"), data=Corpus(source=options.data, crop_s=4.0),
            training=replace(
                settings(options), out=str(Path(options.out) / "student"), steps=options.student_steps,
                batch_size=4, lr=1e-3, warmup=20, ema_decay=0.99,
            ),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            integral=IntegralConfig(targets_per_rollout=3, interval=IntervalConfig(p_full=0.5)),
        )
    )  # fmt: skip


def finish(options: Options) -> None:
    """The student's one step and two on the recordings themselves."""
    student_finish(
        StudentFinish(
            student=str(Path(options.out) / "student"), data=Corpus(source=options.data, crop_s=4.0),
            training=replace(
                settings(options), out=str(Path(options.out) / "finished"), steps=options.finish_steps,
                lr=1e-3, warmup=20, ema_decay=0.99,
            ),
            finish=FinishConfig(nfe=(1, 2), temperature=options.temperature),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
        )
    )  # fmt: skip


def search(options: Options) -> None:
    """O3S at 2 and 3 evaluations on validation speakers, by speaker similarity against the
    prompt.
    """
    wanted = SearchConfig(iterations=2, starts=("uniform",))
    search_steps(
        Path(options.out) / "student", Corpus(source=options.data), options.search_limit, wanted
    )


def systems(options: Options) -> list[System]:
    """What is compared; the first is the recordings' own Mel through the vocoder."""
    out = Path(options.out)
    hours = {name: hours_of(out / name) for name in ("teacher", "student", "finished")}
    spent = {"teacher": hours["teacher"], "student": hours["teacher"] + hours["student"]}
    spent["finished"] = spent["student"] + hours["finished"]

    def row(name: str, kind: str, nfe: int, placed: bool = False) -> System:
        role = "teacher" if kind == "teacher" else "student"
        about = {"train_hours": round(spent[kind], 3), "model": kind, "schedule": "o3s" if placed else "uniform"}  # fmt: skip
        return System(name, out / kind, role, nfe, placed, about)

    return [
        System("vocoded", about={"model": "vocoded"}),
        *(row(f"teacher-{n}", "teacher", n) for n in (32, 10, 4, 2, 1)),
        *(row(f"student-{n}", "student", n) for n in (1, 2, 3)),
        *(row(f"student-{n}-o3s", "student", n, True) for n in (2, 3)),
        *(row(f"finished-{n}", "finished", n) for n in (1, 2)),
    ]


def evaluate(options: Options) -> None:
    """The table, what it says about the aims, and its figure."""
    out = Path(options.out)
    task = open_model(out / "teacher", role="teacher").task
    utterances = open_eval(
        Corpus(source=options.data), "test", task.degradation, task.sample_rate, limit=options.limit
    )
    with scoring_pool(1) as pool:
        scored = score_systems(
            systems(options), utterances, task, options.metrics, out / "scores", pool,
            lambda name: say(f"--- scoring {name}"),
        )  # fmt: skip
    table = [{"system": name} | summarise(one.rows) | one.facts for name, one in scored.items()]
    stem = Path(options.results) / "token_to_mel"
    write_table(stem, table)
    write_json(stem.with_suffix(".json"), {"rows": table, "differences": compared(scored)} | context(options))  # fmt: skip
    plot(table, stem.with_suffix(".png"))
    if Path(options.results) == HERE / "results":
        document(table, HERE.parent / "docs" / "tts.md")


def store(options: Options) -> None:
    """The finished student in half precision among the models."""
    models = HERE / "models"
    halve(Path(options.out) / "finished", models / "token2mel-finished", models / "vocode-finished")


def compared(scored: Mapping[str, Scored]) -> dict[str, Any]:
    """Paired differences that the aims are about."""
    pairs = [(name, "teacher-32") for name in scored if name != "teacher-32"]
    pairs += [("student-2-o3s", "student-2"), ("student-3-o3s", "student-3")]
    return {f"{a} - {b}": differences(scored[a].rows, scored[b].rows) for a, b in pairs}


def document(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Put the table between the marks of the page."""
    columns = {"system": ""} | {key: header(key) for key in SHOWN}
    hours = max(row.get("train_hours") or 0 for row in table)
    lines = f"{table[0]['n']} test utterances of unseen speakers ({machine()}; {hours:.2f} hours of training):"
    into(file, "token_to_mel.json", lines + "\n\n" + markdown_table(table, columns) + "\n")


def context(options: Options) -> dict[str, Any]:
    """How it was made."""
    searched = {}
    for nfe in (2, 3):
        file = Path(options.out) / "student" / f"o3s-{nfe}.json"
        if file.is_file():
            o3s = json.loads(file.read_text(encoding="utf-8"))
            told = ("schedule", "value", "n", "scored", "unimodal", "seconds")
            searched[str(nfe)] = {key: o3s[key] for key in told}
    left = ("data", "out", "results", "stages", "vocoder")
    return {
        "o3s": searched,
        "options": {key: value for key, value in vars(options).items() if key not in left},
        "commit": commit(),
        "machine": machine(),
    }


def plot(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Each metric against the number of evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn = [column for column in DRAWN if table[0].get(column) is not None]
    figure, axes = plt.subplots(1, len(drawn), figsize=(4 * len(drawn), 3.6), constrained_layout=True)  # fmt: skip
    for axis, column in zip(axes, drawn, strict=True):
        for kind, colour in (("teacher", "C0"), ("student", "C1"), ("finished", "C2")):
            own = sorted(
                (row for row in table if row["model"] == kind and row["schedule"] == "uniform"),
                key=lambda row: row["nfe"],
            )
            x, y, error = ([row[key] for row in own] for key in ("nfe", column, f"{column}_ci95"))
            axis.errorbar(x, y, error, fmt="o-", color=colour, label=kind, alpha=0.8)
        axis.axhline(table[0][column], color="grey", linestyle="--", label="recording, vocoded")
        axis.set(xscale="log", xlabel="network evaluations", title=header(column), xticks=[1, 2, 4, 10, 32])  # fmt: skip
        axis.set_xticklabels(["1", "2", "4", "10", "32"])
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main(tyro.cli(Options))
