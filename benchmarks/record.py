"""What the benchmarks share: recorded rows, tables in pages, checkpoints in half precision, and
what a row says of its making.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mfdistill.checkpoint import load_config, load_tensors, save_folder, write_text

HERE = Path(__file__).resolve().parent


def recorded(file: Path) -> list[dict[str, Any]]:
    """Rows of a result, none where it has not been recorded."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def into(file: Path, mark: str, text: str) -> None:
    """Put a text between ``<!-- mark -->`` and ``<!-- end -->``, where a page has them."""
    before, start, rest = file.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    if start:
        _, end, after = rest.partition("<!-- end -->")
        write_text(file, before + start + text + end + after)


def tables(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """One markdown table for every task and rate; ``columns``: key of a row to heading, after the
    system's name; those that a task has no value for are left out of its table.
    """
    from mfdistill.report import markdown_table

    parts = []
    for task, rate in dict.fromkeys((row["task"], row["sample_rate"]) for row in rows):
        own = [row for row in rows if (row["task"], row["sample_rate"]) == (task, rate)]
        there = {k: v for k, v in columns.items() if any(row.get(k) is not None for row in own)}
        lines = [{"system": name_of(row)} | {key: row.get(key) for key in there} for row in own]
        title = (
            f"`{task}`, {rate // 1000} kHz, {own[0]['n']} test utterances ({own[0]['machine']}):"
        )
        parts.append(f"{title}\n\n{markdown_table(lines, {'system': ''} | there)}")
    return "\n\n".join(parts) + "\n"


def name_of(row: Mapping[str, Any]) -> str:
    """Of a row, for people."""
    steps = (
        ""
        if row["model"] in ("unprocessed", "regression")
        else f", {row['nfe']} step" + ("s" if row["nfe"] > 1 else "")
    )
    if row.get("losses") == "critics" or row.get("critics"):
        steps = f", critics{steps}"
    elif row["model"] == "regression" and row.get("losses") == "finish":
        steps = f", losses of finishing{steps}"
    if row.get("start"):
        steps = f" from {row['start']}{steps}"
    placed = f" placed by O3S on {row['searched']}" if row["schedule"] == "o3s" else ""
    by_meanflow = row["objective"] == "meanflow" or "meanflow" in row.get("name", "")
    model = row["model"] + (" by meanflow" if by_meanflow else "")
    return f"**{model}{steps}{placed}**" if row["claim"] else model + steps + placed


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit() -> str:
    """The repository's commit, marked where the tree has changes."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()

    dirty = git("status", "--porcelain", "--", "../mfdistill")
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if dirty else "")


def precision() -> Literal["no", "bf16"]:
    """What trainings on this machine's CPU are fastest in."""
    import torch

    from mfdistill.distill.processes import bf16_is_slow

    return "no" if bf16_is_slow(torch.device("cpu")) else "bf16"


def machine() -> str:
    """The machine in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of a {processor()} server, no GPU, one training per core"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def hours_of(folder: Path) -> float:
    """Hours of training in a run's ``config.json``."""
    return float(load_config(folder)["training"]["hours"])


def halve(source: Path, target: Path, vocoder: Path | None = None) -> Path:
    """A copy of a model folder in half precision, with what is needed to use it. A ``vocoder`` is
    named from there.
    """
    whole = load_config(source)
    config = {key: value for key, value in whole.items() if key in KEPT}
    if "hours" in (whole.get("training") or {}):
        config["hours"] = whole["training"]["hours"]
    if vocoder is not None:
        config["task"] = {**config["task"], "vocoder": os.path.relpath(vocoder, target)}
    save_folder(target, {key: value.half() for key, value in load_tensors(source).items()}, config)
    return target


KEPT = ("role", "task", "network", "objective", "schedule", "schedules", "predictor", "hours")
