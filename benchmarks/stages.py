"""What benchmarks do once: trainings that are given minutes instead of updates, continued where
they were stopped, and searches for schedules.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from mfdistill.checkpoint import load_config, write_json
from mfdistill.commands.options import Corpus
from mfdistill.data import open_eval
from mfdistill.distill.logs import read_log
from mfdistill.distill.opening import open_model
from mfdistill.distill.settings import TrainConfig
from mfdistill.search import run_search
from mfdistill.search.config import SearchConfig

PLAN = "plan.json"
PILOT = 10
"""Updates that tell how long one takes."""


def train_for(
    minutes: float,
    train: Callable[[TrainConfig], Any],
    out: Path,
    settings: TrainConfig,
    pilot: int = PILOT,
    pace: float | None = None,
) -> Path:
    """``train(settings)`` into ``out`` for about so many minutes of updates, with a learning rate
    that comes down at their end.

    ``pace``, the seconds of an update, tells how many fit, so that trainings that differ in nothing
    but their start get as many; without it a few updates in a folder beside it do, which is
    removed. The number is kept in ``plan.json``, so that a run that was stopped goes on to the same
    end. Validation and reading are not counted, as in a run's "hours".
    """
    plan = out.with_name(f"{out.name}-{PLAN}")
    if not plan.is_file():
        each = _pace(train, out, settings, pilot) if pace is None else pace
        steps = max(1, round(60 * minutes / each))
        write_json(plan, {"minutes": minutes, "seconds_per_update": each, "steps": steps})
    steps = int(planned(plan)["steps"])
    if not done(out, steps):
        train(fitted(replace(settings, out=str(out), resume=True), steps))
    return out


def _pace(
    train: Callable[[TrainConfig], Any], out: Path, settings: TrainConfig, pilot: int
) -> float:
    """Median seconds of an update, so that the first, slow ones do not tell."""
    trial = out.with_name(f"{out.name}-pilot")
    shutil.rmtree(trial, ignore_errors=True)
    settings = replace(settings, out=str(trial), resume=False, log_every=1)
    train(fitted(settings, max(2, pilot)))
    hours = [line["hours"] for line in read_log(trial / "log.jsonl") if line["kind"] == "train"]
    shutil.rmtree(trial)
    return 3600 * statistics.median(later - now for now, later in pairwise(hours))


def search_steps(folder: Path, data: Corpus, limit: int, wanted: SearchConfig) -> None:
    """O3S at 2 and 3 evaluations on ``limit`` validation utterances, each once."""
    task = open_model(folder, role="student").task
    items = list(open_eval(data, "valid", task.degradation, task.sample_rate, limit=limit))
    for nfe in (2, 3):
        if str(nfe) not in (load_config(folder).get("schedules") or {}):
            run_search(folder, task, items, replace(wanted, nfe=nfe, limit=limit))


def planned(plan: Path) -> dict[str, float]:
    """What a ``plan.json`` says: minutes, seconds per update, updates."""
    return json.loads(plan.read_text(encoding="utf-8"))


def fitted(settings: TrainConfig, steps: int) -> TrainConfig:
    """Settings for a run of so many updates: warm-up of at most a tenth of them, an average that
    forgets the first half.
    """
    return replace(
        settings,
        steps=steps,
        warmup=min(settings.warmup, steps // 10),
        ema_decay=min(settings.ema_decay, 1 - 10 / max(20, steps)),
        valid_every=0,
        save_every=max(1, min(settings.save_every, steps)),
    )


def done(out: Path, steps: int) -> bool:
    """Whether a run has reached its last update."""
    if not (out / "model.safetensors").is_file():
        return False
    return int((load_config(out).get("training") or {}).get("step", 0)) >= steps
