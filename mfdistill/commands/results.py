"""What is known of a model beside its weights: evaluations and searches, kept in its folder with
the digest of the weights that they are of.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mfdistill
from mfdistill.checkpoint import load_config, write_json
from mfdistill.plain import Plain, Row

FILE = "results.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_KEY = ("data", "split")


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of ``model.safetensors``, or of an adapter's weights; None where there is none."""
    file = next((file for name in WEIGHTS if (file := folder / name).is_file()), None)
    if file is None:
        return None
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_model(folder: Path) -> bool:
    """Whether ``folder`` is a model folder of ours."""
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)


def holds_results(folder: Path) -> bool:
    """Whether results can be kept in ``folder``: a model's, not one that came with the program,
    and one that can be written.
    """
    package = Path(mfdistill.__file__).parent
    inside = package in folder.resolve().parents
    return is_model(folder) and not inside and os.access(folder, os.W_OK)


def keep(folder: Path, evaluation: Row) -> None:
    """Add an evaluation to ``folder``, in the place of an earlier one of the same data and split.

    Args:
        evaluation: ``{"data", "split", "limit", "out", "rows"}``.

    Raises:
        UserError: the folder cannot be written.
    """
    others = [
        other
        for other in _read(folder)
        if any(other.get(key) != evaluation.get(key) for key in _KEY)
    ]
    entry = {**evaluation, "sha256": weights_digest(folder)}
    write_json(folder / FILE, {"evaluations": [*others, entry]})


def _read(folder: Path) -> list[Plain]:
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    found = held.get("evaluations") if isinstance(held, dict) else None
    if not isinstance(found, list):
        from mfdistill.errors import UserError

        raise UserError(f"{file}: damaged; delete it and evaluate again")
    return found


def evaluations(folder: Path) -> list[Plain]:
    """The evaluations that still hold: of these weights, and without rows of searched schedules
    that a later search has replaced.

    Raises:
        UserError: ``results.json`` is damaged.
    """
    held = _read(folder)
    if not held:
        return []
    digest, config = weights_digest(folder), load_config(folder)
    schedules = config.get("schedules") or {}
    found = []
    for entry in held:
        if entry.get("sha256") != digest:
            continue
        rows = [row for row in entry["rows"] if _holds(row, config.get("role"), schedules)]
        found.append({**entry, "rows": rows, "dropped": len(entry["rows"]) - len(rows)})
    return found


def _holds(row: Row, role: Any, schedules: Mapping[str, Sequence[float]]) -> bool:
    if row.get("model") != role or row.get("schedule") != "o3s":
        return True
    now = schedules.get(str(row.get("nfe")))
    return now is not None and list(now) == list(row.get("times") or [])


def searches(folder: Path) -> list[Plain]:
    """What ``o3s-N.json`` hold, by their number of steps; of a student those whose schedule is
    still the one in ``config.json``.
    """
    config = load_config(folder) if (folder / "config.json").is_file() else None
    found = []
    for file in sorted(folder.glob("o3s-*.json"), key=lambda file: (len(file.name), file.name)):
        search = json.loads(file.read_text(encoding="utf-8"))
        now = ((config or {}).get("schedules") or {}).get(str(search["nfe"]))
        if config is None or now == search["schedule"]:
            found.append(search)
    return found
