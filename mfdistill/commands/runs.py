"""What a page shows of a run, read from its folder: a model's, an evaluation's or a demo's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mfdistill.checkpoint import load_config
from mfdistill.commands.results import check_rows, evaluations, is_model, searches
from mfdistill.errors import UserError
from mfdistill.plain import Plain
from mfdistill.reading import parse_json, read_json, read_text

_AGAIN = "evaluate again"
_ROLES = ("student", "teacher", "regression")


@dataclass
class Run:
    """A folder as a page shows it."""

    folder: Path
    name: str
    config: Plain | None = None
    """Of a model."""
    logs: dict[str, list[Plain]] = field(default_factory=dict)
    """Lines of ``log.jsonl`` by the name of the run."""
    searches: list[Plain] = field(default_factory=list)
    rows: list[Plain] = field(default_factory=list)
    details: list[Plain] = field(default_factory=list)
    audio: Path | None = None
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the name of the checkpoint."""
    told: Plain = field(default_factory=dict)
    """Data, split and folder of the evaluation."""
    notes: list[str] = field(default_factory=list)
    differences: list[Plain] = field(default_factory=list)
    """Paired ones, to the system that evaluate --against named."""


def wav_name(model: str, nfe: int, schedule: str) -> str:
    """Stem of a system's WAV files: ``student-2-o3s``."""
    number = f"-{nfe}" if model in ("teacher", "student") else ""
    return model + number + (f"-{schedule}" if schedule not in ("", "uniform") else "")


def read_run(folder: str | Path) -> Run:
    """A model's folder, the folder of an evaluation, or that of a demo.

    Raises:
        UserError: none of these, or damaged.
    """
    place = Path(folder)
    if not is_model(place) and (place / "evaluation" / "evaluation.json").is_file():
        return _read_evaluation(place / "evaluation", place.name)
    if (place / "evaluation.json").is_file():
        return _read_evaluation(place, place.name)
    if is_model(place):
        run = Run(place, place.resolve().name, load_config(place))
        _add_model(run, place)
        if held := evaluations(place):
            last = held[-1]
            run.rows = last["rows"]
            run.told = {key: last.get(key) for key in ("data", "split", "out")}
            if last["dropped"]:
                run.notes.append(
                    f"{last['dropped']} rows of the evaluation are of schedules that a later search replaced and are left out; "
                    "evaluate again."
                )
        parent = (run.config or {}).get("parent") or {}
        if parent.get("teacher"):
            _add_model(run, Path(parent["teacher"]), "teacher")
        return run
    if found := searches(place):
        return Run(place, place.resolve().name, searches=found)
    raise UserError(
        f"{folder}: holds no model and no evaluation; name a folder that student-distill, evaluate or demo wrote"
    )


def _read_evaluation(place: Path, name: str) -> Run:
    run = Run(place, name)
    run.rows, run.details = _rows(place / "evaluation.json"), _rows(place / "utterances.json")
    run.audio = place / "audio"
    told = place / "command.json"
    command = read_json(told, _AGAIN) if told.is_file() else {}
    data = command.get("data")
    run.told = {
        "data": data.get("source") if isinstance(data, dict) else None,
        "split": command.get("split"),
        "out": str(place),
        "against": command.get("against"),
    }
    # of this evaluation, not of an earlier one in the same folder
    if command.get("against") and (place / "differences.json").is_file():
        run.differences = _rows(place / "differences.json")
    for role in _ROLES:
        paths = [row["checkpoint"] for row in run.rows if row["model"] == role]
        if paths and paths[0]:
            _add_model(run, Path(paths[0]), role)
    return run


def _add_model(run: Run, folder: Path, role: str | None = None) -> None:
    """Facts, log and searches of a checkpoint; one that is not there any more is left out."""
    from mfdistill.commands.info import describe

    if not is_model(folder):
        return
    name = role or str(load_config(folder).get("role"))
    run.facts[name] = {"folder": str(folder), **describe(str(folder))}
    if (folder / "log.jsonl").is_file():
        run.logs[name] = _lines(folder / "log.jsonl")
    if name == "student":
        run.searches = searches(folder)
        run.config = run.config or load_config(folder)


def _rows(file: Path) -> list[Plain]:
    """A table that ``evaluate`` wrote.

    Raises:
        UserError: missing or damaged.
    """
    rows = parse_json(read_text(file), str(file), _AGAIN)
    if not isinstance(rows, list):
        raise UserError(f"{file}: holds no table; {_AGAIN}")
    check_rows(rows, str(file))
    return rows


def _lines(file: Path) -> list[Plain]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut short by a kill
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
