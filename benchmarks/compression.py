"""Quality against parameters, multiply-adds and computing time of a student whose convolutions are
decoupled (9 to 1 filters per channel, each fine-tuned alike), or that is computed in eight bits.

    python benchmarks/compression.py --data ../shared/data

Fine-tunings resume where they were stopped. Times are processor seconds of one thread per second of
audio, of all models in turn, so that what else the machine does weighs on all alike. Writes
benchmarks/results/compression.json and .png and the table in docs/solvers.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from record import HERE, commit, into, machine

from mfdistill.commands.compress import Compress
from mfdistill.commands.compress import run as compress
from mfdistill.commands.options import Corpus, ValidOptions
from mfdistill.distill.settings import TrainConfig

METRICS = ("pesq", "estoi", "lsd", "spksim")


@dataclass(frozen=True)
class Options:
    """Compress, fine-tune and evaluate a student."""

    data: str = "../shared/data"
    student: str = str(HERE / "models" / "vocode-student")
    keep: tuple[int, ...] = (9, 8, 7, 6, 5, 4, 3, 2, 1)
    nfe: int = 1
    out: str = "runs/compression"
    steps: int = 500
    """Updates of every fine-tuning."""
    batch_size: int = 4
    crop_s: float = 1.0
    limit: int = 12
    """Test utterances."""
    metrics: tuple[str, ...] = METRICS
    rounds: int = 5
    """Timings of every model, in turn."""


def main(options: Options) -> None:
    """Every model, then the times of all."""
    corpus = Corpus(source=options.data, crop_s=options.crop_s)
    models = {"whole": options.student}
    for keep in options.keep:
        training = TrainConfig(
            out=str(Path(options.out) / f"keep-{keep}"),
            steps=options.steps,
            batch_size=options.batch_size,
            lr=1e-3,
            warmup=5,
            weight_decay=0.0,
            ema_decay=0.98,
            valid_every=0,
            save_every=20,
            log_every=10,
            resume=True,
        )
        command = Compress(
            model=options.student,
            keep=keep,
            data=corpus,
            training=training,
            valid=ValidOptions(valid_files=0),
        )
        models[f"K = {keep}"] = str(compress(command))
    eight = replace(
        Compress(options.student, int8=True, data=corpus),
        training=TrainConfig(out=f"{options.out}/int8", overwrite=True),
    )
    models["int8"] = str(compress(eight))
    rows = [
        {"name": name, "nfe": options.nfe, **score(folder, corpus, options), **size(folder)}
        for name, folder in models.items()
    ]
    for row, seconds in zip(rows, times(list(models.values()), corpus, options), strict=True):
        row |= {
            "cpu_s_per_s": statistics.median(seconds),
            "cpu_s_per_s_all": [round(value, 5) for value in seconds],
        }
    common = {"fine_tuning_steps": options.steps, "commit": commit(), "machine": machine()}
    record([row | common for row in rows])


def score(folder: str, corpus: Corpus, options: Options) -> dict[str, Any]:
    """Means and confidence intervals on the test split."""
    from mfdistill.data import open_eval
    from mfdistill.distill.inference import restore
    from mfdistill.distill.opening import open_model
    from mfdistill.distill.validation import score_system
    from mfdistill.metrics import summarise

    model = open_model(folder, "cpu", "student")
    utterances = open_eval(
        corpus, "test", model.task.degradation, model.task.sample_rate, limit=options.limit
    )
    scores = score_system(
        lambda wave, i: restore(model.audio_task, model.endpoint, wave, options.nfe, 0, i),
        utterances,
        options.metrics,
        model.task.sample_rate,
    )
    kept = [{key: value for key, value in row.items() if key != "utterance"} for row in scores]
    return {"task": model.task.config.name, **summarise(kept)}


def size(folder: str) -> dict[str, Any]:
    """Parameters, megabytes in single precision (eight-bit layers as they are), and multiply-adds
    of one evaluation per second of audio.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from mfdistill.checkpoint import load_config, load_tensors
    from mfdistill.distill.opening import open_model

    tensors, config = load_tensors(folder), load_config(folder)
    int8 = bool(config["network"].get("int8"))
    megabytes = (
        sum(value.numel() * (1 if value.dtype.itemsize == 1 else 4) for value in tensors.values())
        / 1e6
    )
    # scales, ranges and constants are no parameters
    count = sum(
        value.numel()
        for name, value in tensors.items()
        if not name.endswith(("weight_scale", ".input", ".output"))
    )
    macs = None
    if not int8:
        model = open_model(folder, "cpu", "student")
        wave, frames = noise_wave(model.task), 0
        cond = model.audio_task.condition(wave)
        frames = cond["y"].shape[-1]
        with FlopCounterMode(display=False) as counter:
            model.endpoint(cond["y"], cond, 1)
        stft = model.task.config.stft
        macs = counter.get_total_flops() / 2 / frames * stft.sample_rate / stft.hop
    return {"params": count, "megabytes": megabytes, "macs_per_s": macs}


def noise_wave(task: Any, seconds: float = 2.0) -> Any:
    """Of the task's rate, (1, s)."""
    import torch

    return 0.1 * torch.randn(
        1, round(seconds * task.sample_rate), generator=torch.Generator().manual_seed(0)
    )


def times(folders: Sequence[str], corpus: Corpus, options: Options) -> list[list[float]]:
    """Processor seconds per second of audio of each model, ``rounds`` times, all models in turn."""
    import torch

    from mfdistill.data import open_eval
    from mfdistill.distill.inference import restore
    from mfdistill.distill.opening import open_model

    torch.set_num_threads(1)
    models = [open_model(folder, "cpu", "student") for folder in folders]
    task = models[0].audio_task
    wave = open_eval(corpus, "test", task.degradation, task.sample_rate, limit=1)[0]["degraded"][
        : 4 * task.sample_rate
    ]
    found: list[list[float]] = [[] for _ in models]
    for turn in range(options.rounds + 1):
        for model, seconds in zip(models, found, strict=True):
            start = time.process_time()
            restore(task, model.endpoint, wave, options.nfe)
            if turn:  # the first is a warm-up
                seconds.append((time.process_time() - start) / (len(wave) / task.sample_rate))
    return found


def record(rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON, figure, and the table in the docs."""
    from mfdistill.checkpoint import write_json
    from mfdistill.report import markdown_table

    whole = rows[0]
    if rows[-1]["name"] == "int8" and rows[-1]["macs_per_s"] is None:
        rows = [
            *rows[:-1],
            dict(rows[-1]) | {"macs_per_s": whole["macs_per_s"], "params": whole["params"]},
        ]
    stem = HERE / "results" / "compression"
    write_json(stem.with_suffix(".json"), rows)
    draw(rows, stem.with_suffix(".png"))
    lines = [
        {
            "model": row["name"], "params": f"{row['params'] / 1e3:.0f} k", "mb": f"{row['megabytes']:.2f}",
            "macs": f"{row['macs_per_s'] / 1e6:.0f} M", "cpu": f"{row['cpu_s_per_s']:.4f}",
            "ratio": f"{row['cpu_s_per_s'] / whole['cpu_s_per_s']:.2f}", **{key: row[key] for key in METRICS if key in row},
        }
        for row in rows
    ]  # fmt: skip
    columns = {"model": "", "params": "parameters", "mb": "MB", "macs": "MAC per s", "cpu": "CPU s per s", "ratio": "of the whole's",
               "pesq": "PESQ", "estoi": "ESTOI", "lsd": "LSD", "spksim": "speaker similarity"}  # fmt: skip
    tuned = f"{whole['fine_tuning_steps']} updates of fine-tuning each"
    about = f"`{whole['task']}`, {whole['nfe']} step, {whole['n']} test utterances, {tuned}"
    table = markdown_table(lines, {key: value for key, value in columns.items() if key in lines[0]})
    into(
        HERE.parent / "docs" / "solvers.md",
        "compression.json",
        f"{about} ({whole['machine']}):\n\n{table}\n",
    )


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """PESQ against parameters, multiply-adds and time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), sharey=True)
    shown = [
        ("params", 1e3, "parameters (k)"),
        ("macs_per_s", 1e6, "multiply-adds (M/s)"),
        ("cpu_s_per_s", 1, "CPU s per s"),
    ]
    for axis, (key, unit, label) in zip(axes, shown, strict=True):
        for row in rows:
            axis.errorbar(
                row[key] / unit,
                row["pesq"],
                yerr=row.get("pesq_ci95"),
                fmt="o",
                color="C1" if row["name"] == "int8" else "C0",
            )
            axis.annotate(
                row["name"],
                (row[key] / unit, row["pesq"]),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize=8,
            )
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PESQ")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
