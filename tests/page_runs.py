"""Folders of made-up evaluations and searches for tests of pages: exact numbers, no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from cli_corpus import voice

NAMES = ("a/one", "b/two", "c/three", "d/<four>")
SCORES = {
    ("unprocessed", 0, ""): (1.0, 1.5, 1.25, 1.75),
    ("regression", 1, ""): (2.0, 2.0, 2.0, 2.5),
    ("teacher", 1, "uniform"): (1.5, 1.5, 1.5, 1.5),
    ("teacher", 10, "uniform"): (3.5, 3.5, 3.25, 3.75),
    ("student", 1, "uniform"): (2.5, 2.25, 2.75, 2.5),
    ("student", 2, "o3s"): (3.0, 3.25, 3.0, 2.75),
}
"""PESQ by system and utterance."""


def make_evaluation(folder: Path, checkpoint: str | None = None, rate: int = 8000) -> Path:
    """What ``evaluate`` leaves, with WAV files of the first two utterances."""
    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    for (model, nfe, schedule), scores in SCORES.items():
        about = {"task": "vocode", "model": model, "nfe": nfe, "schedule": schedule}
        measured = None if model == "unprocessed" else 0.01 * nfe
        own = checkpoint if model == "student" else None
        rows.append(
            {**about, "sample_rate": rate, "pesq_mode": "nb", "split": "test", "rtf": measured}
            | {"params": 1000, "checkpoint": own, "n": 4, "times": [0.0, 0.4, 1.0] if schedule == "o3s" else None}
            | {"pesq": float(np.mean(scores)), "pesq_ci95": 0.125, "pesq_n": 4, "lsd": 9.0 - scores[0], "lsd_ci95": 0.1}
        )  # fmt: skip
        details += [
            {**about, "utterance": i, "name": name, "pesq": scores[i], "lsd": 9.0 - scores[i]}
            for i, name in enumerate(NAMES)
        ]
        for i, name in enumerate(NAMES[:2]):
            for stem in ("clean", _stem(model, nfe, schedule)):
                file = folder / "audio" / name.replace("/", "_") / f"{stem}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(file, voice(i, 1.5, rate) * (1 + nfe / 3), rate)
    (folder / "evaluation.json").write_text(json.dumps(rows))
    (folder / "utterances.json").write_text(json.dumps(details))
    (folder / "command.json").write_text(
        json.dumps({"data": {"source": "corpus & more"}, "split": "test"})
    )
    return folder


def _stem(model: str, nfe: int, schedule: str) -> str:
    from mfdistill.commands.runs import wav_name

    return wav_name(model, nfe, schedule)


def make_search(nfe: int = 2) -> dict[str, Any]:
    """What ``o3s.json`` holds: PESQ 3 - (t - 0.4)^2 over one inner time."""
    seen = [
        {"schedule": [0.0, t, 1.0], "score": 3 - (t - 0.4) ** 2, "start": "uniform", "sweep": 1, "coordinate": 1}
        for t in (0.2, 0.3, 0.4, 0.5, 0.6)
    ]  # fmt: skip
    row = {
        "name": "uniform",
        "value": 2.99,
        "value_ci95": 0.1,
        "difference": 0.01,
        "difference_ci95": 0.02,
    }
    return {
        "nfe": nfe, "metric": "pesq", "column": "pesq", "direction": 1, "schedule": [0.0, 0.4, 1.0], "n": 8, "scored": 5,
        "starts": [{"name": "uniform", "from": [0.0, 0.5, 1.0], "schedule": [0.0, 0.4, 1.0], "from_score": 2.99, "score": 3.0}],
        "evaluations": seen, "unimodal": True, "warnings": [], "seconds": 60.0, "stopped": "settled",
        "comparison": {"n": 8, "unseen": True, "rows": [{**row, "significant": False}]},
    }  # fmt: skip
