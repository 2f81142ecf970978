"""Seconds of audio that training takes in per second, of this checkout and of another, in turns.

    git worktree add --detach ../before b67b970
    python benchmarks/training_speed.py --data ../shared/data --before ../before

Each measurement is the training command itself in a process of its own, beginning at the committed
8 kHz models; the two checkouts run in turns, so that a machine that changes its pace does so for
both. Recorded is every run's median over its updates (``log.jsonl``) and the median ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from record import HERE, commit, machine

from mfdistill.checkpoint import write_json

MODELS = HERE / "models"
COMMANDS = {
    "teacher-train": ("--init", MODELS / "vocode-8k-teacher"),
    "student-distill": ("--teacher", MODELS / "vocode-8k-teacher", "--integral.spectral", "0.1"),
}
# what this checkout is run with beyond what the other knows
FASTER = {"student-distill": ("--integral.teacher-precision", "run")}


@dataclass(frozen=True)
class Options:
    """Training throughput of two checkouts side by side."""

    data: str = "../shared/data"
    before: str = ""
    """Another checkout, with the same environment; empty: this one alone."""
    runs: int = 3
    """Of each command and checkout."""
    steps: int = 14
    """Updates of a run; the first four are not counted."""
    threads: tuple[int, ...] = (1, 2)


def pace(source: Path, command: str, options: Options, threads: int, precision: str) -> float:
    """Median seconds of audio per second of one run."""
    first = ("--task", "vocode", "--sample-rate", "8000") if command == "teacher-train" else ()
    extra = FASTER.get(command, ()) if (source, precision) == (HERE.parent, "bf16") else ()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [command, *first, *map(str, COMMANDS[command]), *extra, "--data", options.data]
        words += ["--out", str(out), "--steps", str(options.steps), "--log-every", "1"]
        words += ["--mixed-precision", precision, "--valid-every", "0", "--save-every", "0"]
        subprocess.run(
            [sys.executable, "-m", "mfdistill", *words],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)},
        )
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    paces = [line["audio_s_per_s"] for line in lines if "audio_s_per_s" in line]
    return statistics.median(paces[4:])


def main(options: Options) -> None:
    """Measure and write benchmarks/results/training_speed.json."""
    checkouts = {"now": HERE.parent}
    if options.before:
        checkouts = {"before": Path(options.before).resolve(), **checkouts}
    rows = []
    for command in COMMANDS:
        for threads in options.threads:
            for precision in ("no", "bf16"):
                found: dict[str, list[float]] = {name: [] for name in checkouts}
                for _ in range(options.runs):
                    for name, source in checkouts.items():
                        found[name].append(pace(source, command, options, threads, precision))
                row = {"command": command, "threads": threads, "mixed_precision": precision}
                row |= {f"audio_s_per_s_{name}": values for name, values in found.items()}
                if options.before:
                    pairs = zip(found["now"], found["before"], strict=True)
                    row["ratio"] = statistics.median(now / old for now, old in pairs)
                rows.append(row)
                sys.stderr.write(json.dumps(row) + "\n")
    write_json(
        HERE / "results" / "training_speed.json",
        {"machine": machine(), "torch": torch.__version__, "commit": commit(), "rows": rows},
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
