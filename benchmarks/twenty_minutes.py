"""From a given 8 kHz teacher to a finished student of one step, by the clock.

    python benchmarks/twenty_minutes.py --data ../shared/data

Distils, finishes and evaluates with mfdistill's own commands, each in a process of its own, and
records how long the two trainings took, from the start of a process to its end, and how the one
step stands against the teacher's twenty on the same utterances of unseen speakers (paired
differences, 95 %). Writes benchmarks/results/twenty_minutes.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from record import HERE, commit, machine, precision

from mfdistill.checkpoint import write_json

RESULT = HERE / "results" / "twenty_minutes.json"


@dataclass(frozen=True)
class Options:
    """Distil, finish, evaluate."""

    data: str = "../shared/data"
    teacher: str = str(HERE / "models" / "vocode-8k-teacher")
    distil_steps: int = 300
    finish_steps: int = 1200
    limit: int = 40
    """Test utterances."""
    metrics: tuple[str, ...] = ("pesq", "estoi", "lsd", "spksim", "dnsmos")
    threads: int = 2
    out: str = "runs/twenty_minutes"


def main(options: Options) -> None:
    """The three commands, and what came of them."""
    out = Path(options.out)
    student, finished, found = (out / name for name in ("student", "finished", "evaluation"))
    few = ["--batch-size", "8", "--mixed-precision", precision(), "--data", options.data]
    few += ["--data.crop-s", "1", "--valid-files", "0", "--overwrite"]
    minutes = {
        "student-distill": timed(
            options, "student-distill", "--teacher", options.teacher, "--out", str(student),
            "--steps", str(options.distil_steps), "--warmup", "20", "--ema-decay", "0.99",
            "--integral.teacher-precision", "run", *few,
        ),
        "student-finish": timed(
            options, "student-finish", "--student", str(student), "--out", str(finished),
            "--steps", str(options.finish_steps), "--nfe", "1", *few,
        ),
    }  # fmt: skip
    timed(
        options, "evaluate", "--student", str(finished), "--teacher", options.teacher,
        "--data", options.data, "--teacher-nfe", "20", "--student-nfe", "1", "--audio", "0",
        "--limit", str(options.limit), "--metrics", *options.metrics,
        "--against", "teacher-20", "--out", str(found),
    )  # fmt: skip
    rows, differences = (
        json.loads((found / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("evaluation", "differences")
    )
    write_json(RESULT, {
        "minutes": minutes, "together": sum(minutes.values()), "rows": rows, "differences": differences,
        "options": {key: value for key, value in vars(options).items() if key not in ("out", "data", "teacher")},
        "machine": machine(), "commit": commit(),
    })  # fmt: skip


def timed(options: Options, *words: str) -> float:
    """Minutes that a command takes."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "mfdistill", *words],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
    )
    return (time.monotonic() - began) / 60


if __name__ == "__main__":
    main(tyro.cli(Options))
