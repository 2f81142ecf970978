"""What is known of a model beside its weights: evaluations and searches, kept in its folder with
the digest of the weights that they are of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mfdistill
from mfdistill.checkpoint import load_config, write_json
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Row
from mfdistill.reading import read_json

FILE = "results.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_KEY = ("data", "split")
_NUMBERS = ("rtf", "params", "n", "sample_rate")
_AGAIN = "delete it and evaluate again"
_SEARCH = {
    "nfe": int, "n": int, "scored": int, "direction": int, "column": str, "metric": str, "schedule": list,
    "starts": list, "evaluations": list, "warnings": list, "comparison": dict,
}  # fmt: skip
"""Of what ``o3s-N.json`` holds, where it is there; the first and the schedule always are."""


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
    found = read_json(file, _AGAIN).get("evaluations")
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("rows"), list) for entry in found
    ):
        raise UserError(f"{file}: holds no evaluations; {_AGAIN}")
    for entry in found:
        check_rows(entry["rows"], str(file))
    return found


def check_rows(rows: list[Any], where: str) -> None:
    """Raise ``UserError`` unless ``rows`` are those of a table that ``evaluate`` wrote."""
    number = (int, float, type(None))
    for row in rows:
        about = (
            (row.get("model"), row.get("nfe"), row.get("schedule")) if isinstance(row, dict) else ()
        )
        if [*map(type, about)] != [str, int, str]:
            raise UserError(f"{where}: {row!r:.60} is no row of a table; {_AGAIN}")
        for name, value in row.items():
            measured = name.removesuffix("_ci95")
            wanted = (
                number
                if f"{measured}_ci95" in row or name in _NUMBERS
                else (*number, str, bool, list)
            )
            if type(value) not in wanted:
                raise UserError(f"{where}: {name} is {value!r:.60}; {_AGAIN}")


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
        search = read_json(file, "search again")
        for name, kind in _SEARCH.items():
            value = search.get(name)
            if not (isinstance(value, kind) or value is None and name not in ("nfe", "schedule")):
                raise UserError(f"{file}: {name} is {value!r:.60}; search again")
        now = ((config or {}).get("schedules") or {}).get(str(search["nfe"]))
        if config is None or now == search["schedule"]:
            found.append(search)
    return found
