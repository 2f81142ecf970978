"""Adapters of several ranks beside a full student: quality after equal updates, seconds and memory
of an update, size of the file.

    python benchmarks/ranks.py --data ../shared/data

Every distillation runs in a process of its own, on one thread, from the same teacher and seed;
seconds are of the processor, start and validation included, so that what else the machine does
weighs little. Quality is that of the last validation. Finished ones are not repeated. Writes
benchmarks/results/ranks.json and prints the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from record import HERE, commit, machine

from mfdistill.checkpoint import write_json
from mfdistill.report import markdown_table
from mfdistill.weights import tensor_sizes

RESULT = HERE / "results" / "ranks.json"
SAVED = ("adapter_model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Options:
    """Distil with every rank, and in full."""

    data: str = "../shared/data"
    teacher: str = str(HERE / "models" / "vocode-8k-teacher")
    ranks: tuple[int, ...] = (8, 32, 128, 0)
    """0 is a full student."""
    steps: int = 200
    batch_size: int = 4
    lr: float = 1e-3
    valid_files: int = 12
    out: str = "runs/ranks"


def main(options: Options) -> None:
    """All ranks, then the table."""
    rows = [row_of(rank, options) for rank in options.ranks]
    write_json(RESULT, [row | {"commit": commit(), "machine": machine()} for row in rows])
    quality = [key for key in rows[0] if key.rsplit("_", 1)[-1].isdigit()]
    columns = {"student": "", "trained": "numbers trained", "file_mb": "file, MB"}
    columns |= {"cpu_s_per_update": "s per update", "peak_mb": "peak, MB"}
    sys.stdout.write(markdown_table(rows, columns | {key: key for key in quality}) + "\n")


def row_of(rank: int, options: Options) -> dict[str, Any]:
    """One distillation; its measurements are kept beside it."""
    out = Path(options.out) / (f"rank-{rank}" if rank else "full")
    kept = out / "measured.json"
    if not kept.is_file():
        command = [
            sys.executable, "-m", "mfdistill", "student-distill", "--teacher", options.teacher, "--data", options.data,
            "--steps", str(options.steps), "--batch-size", str(options.batch_size), "--lr", str(options.lr), "--warmup", "10",
            "--valid-every", str(options.steps), "--valid-files", str(options.valid_files), "--out", str(out), "--overwrite",
            *(["--lora.rank", str(rank)] if rank else []),
        ]  # fmt: skip
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)}: failed")
        spent = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
        write_json(kept, spent)
    measured = json.loads(kept.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    valid = [line for line in lines if line.get("kind") == "valid"][-1]
    file = next(out / name for name in SAVED if (out / name).is_file())
    return {
        "student": f"rank {rank}" if rank else "full",
        "steps": options.steps,
        "trained": sum(tensor_sizes(file).values()),
        "file_mb": file.stat().st_size / 1e6,
        "cpu_s_per_update": measured["cpu_s"] / options.steps,
        "peak_mb": measured["peak_mb"],
        **{key: value for key, value in valid.items() if isinstance(value, float)},
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
