"""Speech units to Mel (CosyVoice's setting) on real speech: trains, distils, searches and evaluates
from one command.

    python benchmarks/token_to_mel.py --data ../shared/data

Every stage resumes where it was stopped; finished stages are skipped. O3S sees validation speakers
only; the table is of the test split, whose speakers no stage before it has heard. Of every
utterance the first ``--cut-s`` seconds are used, of which the beginning (3 s, at most 40 %) is the
prompt; the generated rest is scored. Units and coarse spectrogram were chosen on validation
speakers, after five of the test utterances had been looked at. Writes
benchmarks/results/token_to_mel.json, .csv and .png.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from record import HERE, commit, digest, hours_of, into, machine
from torch import Tensor

from mfdistill.checkpoint import load_config, write_json
from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.data import open_eval
from mfdistill.distill.inference import Steps
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.opening import Model, open_model
from mfdistill.distill.settings import TrainConfig
from mfdistill.flow import noise, sway
from mfdistill.flow.config import IntervalConfig
from mfdistill.flow.speech_grids import EPSS
from mfdistill.metrics import score_utterances
from mfdistill.metrics.summary import mean_ci95, paired_difference
from mfdistill.networks.frames_config import FramesSizes
from mfdistill.report import markdown_table, write_table
from mfdistill.search import run_search
from mfdistill.search.config import SearchConfig
from mfdistill.tasks.mel import Token2Mel

CONTROLS = ("ground truth", "other speaker", "coarse spectrogram")
"""Rows without a model, through the vocoder: the recording itself, one of another speaker, and what
units and prompt say by themselves.
"""
MEASURED = ("spksim", "lsd", "unit_error", "mel_to_teacher")
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Token-to-Mel on real speech."""

    data: str = "../shared/data"
    """Corpus with train, valid and test speakers."""
    stages: tuple[Literal["train", "search", "rollouts", "evaluate"], ...] = (
        "train",
        "search",
        "rollouts",
        "evaluate",
    )
    out: str = "runs/token2mel"
    """Folder of the runs."""
    results: str = str(HERE / "results")
    """Folder of the recorded result; the page in docs/ is only written with the default."""
    vocoder: str = os.path.relpath(HERE / "models" / "vocode-student")
    """A vocode model with the same Mel spectrogram."""
    channels: int = 160
    blocks: int = 6
    attention: int = 3
    """Of the network; every so many blocks are followed by self-attention."""
    start_steps: int = 2500
    teacher_steps: int = 2000
    """Updates of the teacher, and after a warm restart of its learning rate."""
    student_steps: int = 400
    """Updates of the student."""
    temperature: float = 0.4
    """Of the noise that every system starts from; chosen on validation speakers."""
    rollout_steps: int = 60
    """Updates of the two small students that compare targets per rollout."""
    cut_s: float = 6.0
    """Seconds of an utterance that are used."""
    limit: int = 22
    """Test utterances; they go through the speakers in turn."""
    search_limit: int = 10
    """Validation utterances, one of each speaker, that a schedule is scored on."""
    search_iterations: int = 2
    """Ternary steps per line of the search."""
    metrics: tuple[str, ...] = ("spksim", "lsd")
    """Beside the unit error; wer where jiwer and Whisper are installed."""
    mixed_precision: Literal["no", "bf16"] = "bf16"


def main(options: Options) -> None:
    """All stages."""
    if "train" in options.stages:
        train(options)
    if "search" in options.stages:
        search(options)
    if "rollouts" in options.stages:
        rollouts(options)
    if "evaluate" in options.stages:
        record(options, measure(options))


def train(options: Options) -> None:
    """Teacher and student."""
    out = Path(options.out)
    start = TeacherTrain(
        task="token2mel",
        data=Corpus(source=options.data),
        training=replace(settings(options), out=str(out / "start"), steps=options.start_steps),
        valid=ValidOptions(valid_files=8, valid_metrics=()),
        speech=SpeechOptions(vocoder=options.vocoder),
        frames=FramesSizes(
            channels=options.channels, blocks=options.blocks, attention=options.attention
        ),
    )
    teacher_train(start)
    teacher_train(
        replace(
            start,
            init=str(out / "start"),
            task_options=TaskOptions(temperature=options.temperature),
            training=replace(
                settings(options), out=str(out / "teacher"), steps=options.teacher_steps, lr=1.5e-3
            ),
        )
    )
    distil(options, "student", options.student_steps, 3)


def settings(options: Options) -> TrainConfig:
    """What all runs share."""
    return TrainConfig(
        batch_size=8,
        lr=2e-3,
        warmup=100,
        ema_decay=0.998,
        mixed_precision=options.mixed_precision,
        valid_every=0,
        save_every=100,
        log_every=50,
        resume=True,
    )


def distil(options: Options, name: str, steps: int, targets: int) -> None:
    """A student by the integral objective: midpoint, 4 substeps; half of the intervals are the
    whole flow.
    """
    out = Path(options.out)
    student_distill(
        StudentDistill(
            teacher=str(out / "teacher"),
            data=Corpus(source=options.data, crop_s=4.0),
            training=replace(
                settings(options),
                out=str(out / name),
                steps=steps,
                batch_size=4,
                lr=1e-3,
                warmup=20,
                ema_decay=0.99,
                valid_every=0,
                log_every=20,
            ),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            integral=IntegralConfig(
                targets_per_rollout=targets, interval=IntervalConfig(p_full=0.5)
            ),
        )
    )


def search(options: Options) -> None:
    """O3S at 2 and 3 evaluations on validation speakers, by speaker similarity against the
    prompt.
    """
    folder = Path(options.out) / "student"
    task = open_model(folder, role="student").task
    for nfe in (2, 3):
        if str(nfe) in (load_config(folder).get("schedules") or {}):
            continue
        wanted = SearchConfig(
            nfe=nfe,
            limit=options.search_limit,
            iterations=options.search_iterations,
            starts=("uniform",),
        )
        run_search(
            folder, task, list(utterances(options, task, "valid", options.search_limit)), wanted
        )


def utterances(
    options: Options, task: Any, split: Literal["valid", "test"], limit: int
) -> Iterator[dict[str, Any]]:
    """Beginnings of utterances."""
    size = round(options.cut_s * task.sample_rate)
    for item in open_eval(
        Corpus(source=options.data), split, task.degradation, task.sample_rate, limit=limit
    ):
        yield item | {key: item[key][:size] for key in ("clean", "degraded")}


def rollouts(options: Options) -> None:
    """One target per rollout against three, after equally many rollouts of the teacher: how far the
    one-step student is from it.
    """
    file = Path(options.out) / "rollouts.json"
    if file.is_file():
        return
    teacher = open_model(Path(options.out) / "teacher")
    found: dict[str, Any] = {
        "rollouts": 4 * options.rollout_steps,
        "teacher_nfe": 8,
        "metric": "mel_to_teacher",
    }
    values: dict[int, list[float]] = {}
    for targets in (1, 3):
        distil(options, f"rollouts-{targets}", options.rollout_steps, targets)
        student = open_model(Path(options.out) / f"rollouts-{targets}", role="student")
        values[targets] = list(distances(options, teacher, student))
        mean, half, _ = mean_ci95(values[targets])
        found[str(targets)] = {
            "mean": mean,
            "ci95": half,
            "hours": hours_of(Path(options.out) / f"rollouts-{targets}"),
        }
    mean, half, count = mean_ci95([b - a for a, b in zip(values[1], values[3], strict=True)])
    write_json(file, found | {"difference": mean, "difference_ci95": half, "n": count})


@torch.no_grad()
def distances(options: Options, teacher: Model, student: Model) -> Iterator[float]:
    """Of the one-step student from the 32-step teacher, on every test utterance."""
    for index, item in enumerate(utterances(options, teacher.task, "test", options.limit)):
        z_0, cond, _ = start(teacher, index, item)
        yield squared_distance(
            student.endpoint(z_0, cond, 1), teacher.endpoint(z_0, cond, 32), cond
        )


@torch.no_grad()
def start(model: Model, index: int, item: Item) -> tuple[Tensor, Mapping[str, Tensor], Tensor]:
    """Noise, condition and level of an utterance; the noise is the same for every system."""
    wave = item["clean"][None]
    gain = model.audio_task.gain(wave)
    cond = model.audio_task.condition(wave * gain)
    y = cond["y"]
    return (
        model.task.path.prior(cond, noise(0, torch.tensor([index]), "benchmark", y.shape[1:])),
        cond,
        gain,
    )


def squared_distance(a: Tensor, b: Tensor, cond: Mapping[str, Tensor]) -> float:
    """Mean square over the generated frames, in deviations of the Mel bands."""
    made = 1 - cond["prompt"]
    return float((((a - b).square() * made).sum() / made.sum()).detach() / a.shape[2])


def systems(
    options: Options, teacher: Model, student: Model
) -> list[tuple[str, str, int, str, Model, Steps]]:
    """(label, model, evaluations, placement, model, steps)."""
    rows: list[tuple[str, str, int, str, Model, Steps]] = []
    # 32 first: the others' distance to it
    rows += [(f"teacher-{n}", "teacher", n, "uniform", teacher, n) for n in (32, 1, 2, 4, 10)]
    rows += [(f"teacher-{n}-sway", "teacher", n, "sway", teacher, sway(n)) for n in (4, 10)]
    rows += [
        (f"teacher-{n}-epss", "teacher", n, "epss", teacher, [time / 32 for time in EPSS[n]])
        for n in (5, 10)
    ]
    rows += [(f"student-{n}", "student", n, "uniform", student, n) for n in (1, 2, 3)]
    rows += [(f"student-{n}-sway", "student", n, "sway", student, sway(n)) for n in (2, 3)]
    for nfe, times in sorted((student.config.get("schedules") or {}).items()):
        rows.append(
            (
                f"student-{nfe}-o3s",
                "student",
                int(nfe),
                "o3s",
                student,
                [float(time) for time in times],
            )
        )
    return rows


@torch.no_grad()
def measure(options: Options) -> list[dict[str, Any]]:
    """A row per system and utterance; those of an earlier call with the same checkpoints are kept.
    All systems of an utterance are run one after the other, so that their times are comparable.
    """
    out = Path(options.out)
    teacher, student = open_model(out / "teacher"), open_model(out / "student")
    task: Any = teacher.task
    assert isinstance(task, Token2Mel)
    student.task.vocoder = task.vocoder
    key = [digest(out / name / "model.safetensors")[:16] for name in ("teacher", "student")] + [
        options.cut_s
    ]
    store = out / "measured.jsonl"
    rows = (
        [row for row in map(json.loads, store.read_text().splitlines()) if row["key"] == key]
        if store.is_file()
        else []
    )
    known = {(row["label"], row["name"]) for row in rows}
    items = list(utterances(options, task, "test", options.limit))
    with store.open("a") as log:
        for index, item in enumerate(items):
            other = next(
                x for x in items[index + 1 :] + items[:index] if x["speaker"] != item["speaker"]
            )
            for row in measure_one(
                options, task, index, item, other, systems(options, teacher, student), known
            ):
                rows.append(row | {"key": key})
                log.write(json.dumps(rows[-1]) + "\n")
                log.flush()
    return rows


def measure_one(
    options: Options,
    task: Any,
    index: int,
    item: Item,
    other: Item,
    tried: Sequence[Any],
    known: set[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """The rows of one utterance that are not known."""
    clean, name = item["clean"], item["name"]
    if all((label, name) in known for label in (*CONTROLS, *(row[0] for row in tried))):
        return
    z_0, cond, gain = start(tried[0][4], index, item)
    z = task.target(clean[None] * gain)
    said = task.units(clean * gain[0])[:, 0]

    def scores(label: str, wave: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
        _, _, prompt = task.judged(clean.numpy(), clean.numpy())
        made = task.judged(wave, wave)[0]
        row = score_utterances(
            [(name, made, task.judged(reference, reference)[1], prompt)],
            options.metrics,
            task.sample_rate,
        )[0]
        return {
            "label": label,
            "speaker": item["speaker"],
            "seconds": len(made) / task.sample_rate,
        } | row

    def heard(z_1: Tensor) -> np.ndarray:
        first = int(cond["prompt"].sum())
        # the vocoder hears half a second of the prompt before it
        early = max(0, first - 32)
        whole = torch.where(cond["prompt"] > 0, z, z_1)[..., early:]
        hop = task.config.stft.hop
        made = (task.waveform(whole, len(clean) - early * hop) / gain)[0, (first - early) * hop :]
        return torch.cat([clean[: first * hop], made]).numpy()

    def unit_error(wave: np.ndarray) -> float:
        again = task.units(torch.from_numpy(wave) * gain[0])[:, 0]
        first = int(cond["prompt"].sum()) // task.config.unit_frames + 1
        return float((again[first : len(said)] != said[first : len(again)]).float().mean())

    if ("ground truth", name) not in known:
        wave = heard(z)
        yield scores("ground truth", wave, clean.numpy()) | {"unit_error": unit_error(wave)}
    if ("coarse spectrogram", name) not in known:
        wave = heard(cond["mu"])
        yield scores("coarse spectrogram", wave, clean.numpy()) | {"unit_error": unit_error(wave)}
    if ("other speaker", name) not in known:
        stranger = task.degrade(other["clean"][None])[0].numpy()
        yield scores("other speaker", stranger, other["clean"].numpy())
    target = None
    for label, _, _, _, model, steps in tried:
        if (label, name) in known and label != "teacher-32":
            continue
        began, clock = time.process_time(), time.perf_counter()
        z_1 = model.endpoint(z_0, cond, steps)
        flow_s = time.process_time() - began
        target = z_1 if label == "teacher-32" else target
        if (label, name) in known:
            continue
        wave = heard(z_1)
        whole_s, wall_s = time.process_time() - began, time.perf_counter() - clock
        assert target is not None
        extra = {
            "mel_to_teacher": squared_distance(z_1, target, cond),
            "unit_error": unit_error(wave),
        }
        yield (
            scores(label, wave, clean.numpy())
            | extra
            | {"flow_s": flow_s, "whole_s": whole_s, "wall_s": wall_s}
        )


def record(options: Options, rows: Sequence[dict[str, Any]]) -> None:
    """The table, what it says about the aims, and its figure."""
    out = Path(options.out)
    teacher, student = open_model(out / "teacher"), open_model(out / "student")
    about = {
        label: (model, nfe, placed, steps)
        for label, model, nfe, placed, _, steps in systems(options, teacher, student)
    }
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["label"], []).append(row)
    hours = {"teacher": hours_of(out / "start") + hours_of(out / "teacher")}
    hours["student"] = hours["teacher"] + hours_of(out / "student")
    table = []
    for label in [*CONTROLS, *about]:
        own = by[label]
        model, nfe, placed, steps = about.get(label, (label, 0, "", None))
        line: dict[str, Any] = {
            "system": label,
            "model": model,
            "nfe": nfe,
            "schedule": placed,
            "n": len(own),
        }
        line["times"] = list(steps) if isinstance(steps, Sequence) else None
        for column in dict.fromkeys((*MEASURED, *options.metrics)):
            mean, half, count = mean_ci95([row.get(column, float("nan")) for row in own])
            line |= (
                {column: mean, f"{column}_ci95": half}
                if count
                else {column: None, f"{column}_ci95": None}
            )
        for column in ("flow", "whole"):
            spent = [row[f"{column}_s"] / row["seconds"] for row in own if f"{column}_s" in row]
            line[f"rtf_{column}"] = float(np.median(spent)) if spent else None
        table.append(
            line
            | {"train_hours": hours.get(model), "searched": "spksim" if placed == "o3s" else None}
        )
    stem = Path(options.results) / "token_to_mel"
    write_table(stem, table)
    write_json(stem.with_suffix(".json"), {"rows": table, **aims(by), **context(options)})
    plot(table, stem.with_suffix(".png"))
    if Path(options.results) == HERE / "results":
        document(table, HERE.parent / "docs" / "tts.md")


def document(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Put the table between the marks of the page."""
    columns = {
        "system": "",
        "spksim": "speaker similarity",
        "lsd": "LSD",
        "unit_error": "unit error",
    }
    columns |= {
        "mel_to_teacher": "Mel distance to teacher-32",
        "rtf_flow": "RTF flow",
        "rtf_whole": "RTF whole",
    }
    rows = [{key: row.get(key) for key in (*columns, "spksim_ci95")} for row in table]
    hours = max(row["train_hours"] or 0 for row in table)
    lines = f"{table[0]['n']} test utterances of unseen speakers ({machine()}; {hours:.2f} hours of training):"
    into(file, "token_to_mel.json", lines + "\n\n" + markdown_table(rows, columns) + "\n")


def aims(by: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Where the 32-step teacher sits between another speaker (0) and the ground truth (1), and
    paired differences.
    """

    def mean(label: str) -> float:
        return mean_ci95([row["spksim"] for row in by[label]])[0]

    low, high = mean("other speaker"), mean("ground truth")
    pairs = [(a, b) for a in by if a.startswith("student") for b in ("teacher-32", "teacher-4")]
    pairs += [("student-2-o3s", "student-2"), ("student-3-o3s", "student-3")]
    differences = {
        f"{a} - {b}": dict(
            zip(("mean", "ci95", "n"), paired_difference(by[a], by[b], "spksim"), strict=True)
        )
        for a, b in pairs
        if a in by and b in by
    }
    place = {
        label: (mean(label) - low) / (high - low)
        for label in by
        if label.startswith(("teacher", "student"))
    }
    return {
        "scale": {"other_speaker": low, "ground_truth": high, "position": place},
        "spksim_differences": differences,
    }


def context(options: Options) -> dict[str, Any]:
    """How it was made."""
    out = Path(options.out)
    made = {name: digest(out / name / "model.safetensors") for name in ("teacher", "student")}
    found = out / "rollouts.json"
    told = (
        *(
            "channels",
            "blocks",
            "attention",
            "temperature",
            "start_steps",
            "teacher_steps",
            "student_steps",
            "rollout_steps",
        ),
        *("cut_s", "limit", "search_limit", "search_iterations"),
    )
    searched = {}
    for nfe in (2, 3):
        file = out / "student" / f"o3s-{nfe}.json"
        if file.is_file():
            o3s = json.loads(file.read_text())
            searched[str(nfe)] = {
                key: o3s[key] for key in ("schedule", "value", "n", "scored", "unimodal", "seconds")
            }
    return {
        "targets_per_rollout": json.loads(found.read_text()) if found.is_file() else None,
        "o3s": searched,
        "options": {key: getattr(options, key) for key in told},
        "rtf": "CPU seconds of one core per second of generated audio, median over utterances; whole: flow and vocoder",
        "checkpoint_sha256": made,
        "commit": commit(),
        "machine": machine(),
    }


def plot(table: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Speaker similarity and unit error against the number of evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    marks = {"uniform": "o", "sway": "^", "epss": "s", "o3s": "*"}
    for axis, column, title in zip(
        axes,
        ("spksim", "unit_error"),
        ("speaker similarity to the prompt", "unit error"),
        strict=True,
    ):
        for model, colour in (("teacher", "C0"), ("student", "C1")):
            for placed, mark in marks.items():
                own = sorted(
                    (row for row in table if row["model"] == model and row["schedule"] == placed),
                    key=lambda row: row["nfe"],
                )
                if own:
                    x, y, error = (
                        [row[key] for row in own] for key in ("nfe", column, f"{column}_ci95")
                    )
                    line = "-" if placed == "uniform" else ""
                    axis.errorbar(
                        x,
                        y,
                        error,
                        fmt=mark + line,
                        color=colour,
                        label=f"{model}, {placed}",
                        alpha=0.8,
                    )
        for row, style in zip(table[: len(CONTROLS)], ("--", ":", "-."), strict=True):
            if row[column] is not None:
                axis.axhline(row[column], color="grey", linestyle=style, label=row["system"])
        axis.set(xscale="log", xlabel="network evaluations", ylabel=title, xticks=[1, 2, 4, 10, 32])
        axis.set_xticklabels(["1", "2", "4", "10", "32"])
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main(tyro.cli(Options))
