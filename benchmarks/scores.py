"""Rows of a benchmark: every system scored by the same code on the same utterances, once; a restart
reads what was scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from record import digest
from torch import Tensor

from mfdistill.checkpoint import write_json
from mfdistill.distill.inference import Steps, restore, text_of
from mfdistill.distill.opening import Model, open_model
from mfdistill.distill.validation import score_system
from mfdistill.metrics import differences, measure_rtf, plain
from mfdistill.metrics.score import EVIDENCE
from mfdistill.metrics.signal import lsd
from mfdistill.metrics.workers import Workers

METRICS = (
    *("pesq", "estoi", "sisdr", "lsd", "mcd", "voicing", "spksim"),
    *("dnsmos", "plcmos", "wer", "fd_speaker", "fd_frames"),
)


@dataclass(frozen=True)
class System:
    """What a row is of."""

    name: str
    """Its own among a task's rows."""
    folder: Path | None = None
    """Of a model; None is the input as it is."""
    role: str | None = None
    nfe: int = 0
    placed: bool = False
    """The steps that a search has found for so many, instead of equal ones."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of its row."""


@dataclass
class Scored:
    """A system's utterances, and what its row says beside their summary."""

    system: System
    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def score_systems(
    systems: Sequence[System],
    utterances: Any,
    task: Any,
    metrics: Sequence[str],
    cache: Path,
    pool: Workers,
    tell: Callable[[str], None],
    seed: int = 0,
) -> dict[str, Scored]:
    """By name, in the order given; each kept in ``cache`` under everything that it depends on."""
    found = {}
    for system in systems:
        weights = None if system.folder is None else digest(system.folder / "model.safetensors")
        model = None
        if system.folder is not None:
            model = open_model(system.folder, role=system.role)
        steps = _steps(system, model)
        key = hashlib.sha256(
            json.dumps(
                [weights, steps, list(metrics), seed, list(utterances.names), task.sample_rate]
                + [None if model is None else model.task.config.temperature]
            ).encode()
        ).hexdigest()[:16]
        stem = cache / f"{system.name}-{key}"  # a name may have a dot
        if not _beside(stem, "json").is_file():
            tell(system.name)
            _keep(stem, *_score(model, steps, utterances, task, metrics, pool, seed))
        rows, facts = _kept(stem)
        facts |= {"checkpoint_sha256": weights, "nfe": system.nfe} | dict(system.about)
        found[system.name] = Scored(system, rows, facts)
    return found


def versus(one: Scored, other: Scored, name: str) -> dict[str, float]:
    """Paired differences to another system as columns ``KEY_vs_NAME`` and ``KEY_vs_NAME_ci95``."""
    columns = {}
    for key, value in differences(one.rows, other.rows).items():
        plain_key = key.removesuffix("_ci95")
        if key != "n" and not key.endswith("_n") and not key.startswith("utterance"):
            columns[f"{plain_key}_vs_{name}{key[len(plain_key) :]}"] = value
    return columns


def _steps(system: System, model: Model | None) -> Steps | None:
    if model is None or model.role == "regression":
        return None
    if not system.placed:
        return system.nfe
    name, steps = model.schedule(system.nfe)
    assert name == "o3s", f"{system.folder}: no schedule of {system.nfe} steps was searched"
    return steps


def _score(
    model: Model | None,
    steps: Steps | None,
    utterances: Any,
    task: Any,
    metrics: Sequence[str],
    pool: Workers,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    def system(wave: Tensor, index: int) -> Tensor:
        if model is None:
            return task.degrade(wave[None])[0]
        text = text_of(task, utterances[index])
        return restore(model.audio_task, model.endpoint, wave, steps, seed, index, text=text)

    rows = score_system(system, utterances, metrics, task.sample_rate, pool=pool, task=task)
    facts: dict[str, Any] = {"params": None, "network": None, "objective": None, "rtf": None}
    if model is not None:
        wave = utterances[0]["degraded"]
        facts = {
            "params": model.params,
            "network": model.config["network"]["name"],
            "objective": (model.config.get("objective") or {}).get("name"),
            "rtf": measure_rtf(lambda: system(wave, 0), len(wave) / task.sample_rate, repeats=3),
        }
    times = list(steps) if isinstance(steps, Sequence) else None
    return rows, facts | {"times": times}


def _keep(stem: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """The numbers as JSON, the evidence of set metrics, pairs of arrays, beside them."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{i} {metric} {side}": pair[side]
        for i, row in enumerate(rows)
        for metric, pair in row.get(EVIDENCE, {}).items()
        if pair is not None
        for side in (0, 1)
    }
    with _beside(stem, "part").open("wb") as file:
        np.savez(file, **arrays)
    _beside(stem, "part").replace(_beside(stem, "npz"))
    named = [list(row.get(EVIDENCE, {})) for row in rows]
    write_json(
        _beside(stem, "json"),
        {"rows": [plain(row) for row in rows], "facts": dict(facts), "evidence": named},
    )


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")


def _kept(stem: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    saved = json.loads(_beside(stem, "json").read_text(encoding="utf-8"))
    rows = [
        {key: float("nan") if value is None else value for key, value in row.items()}
        for row in saved["rows"]
    ]
    with np.load(_beside(stem, "npz"), allow_pickle=False) as arrays:
        for i, (row, metrics) in enumerate(zip(rows, saved["evidence"], strict=True)):
            if metrics:
                row[EVIDENCE] = {
                    metric: (arrays[f"{i} {metric} 0"], arrays[f"{i} {metric} 1"])
                    if f"{i} {metric} 0" in arrays
                    else None
                    for metric in metrics
                }
    return rows, saved["facts"]


def spread_of(system: System, utterances: Any, cache: Path) -> float:
    """Log-spectral distance in dB between what a system makes of the same inputs from two seeds: 0
    for one that gives the mean. Kept in ``cache``.
    """
    if system.folder is None or system.role == "regression":
        return 0.0
    weights = digest(system.folder / "model.safetensors")[:16]
    file = cache / f"spread-{system.name}-{weights}-{len(utterances)}.json"
    if file.is_file():
        return float(json.loads(file.read_text(encoding="utf-8")))
    model = open_model(system.folder, role=system.role)
    steps = _steps(system, model)
    found = []
    for i, item in enumerate(utterances):
        text = text_of(model.task, item)
        one, other = (
            restore(
                model.audio_task, model.endpoint, item["degraded"], steps, seed, i, text=text
            ).numpy()
            for seed in (0, 1)
        )
        found.append(lsd(other, one, model.task.sample_rate)["lsd"])
    write_json(file, float(np.mean(found)))
    return float(np.mean(found))
