"""From the folders of runs to their page: what was run, measured, searched and heard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mfdistill
from mfdistill.checkpoint import load_config
from mfdistill.commands.results import evaluations, is_model, searches
from mfdistill.errors import UserError

FILE = "report.html"
_ROLES = ("student", "teacher", "regression")


@dataclass
class Run:
    """A folder as a page shows it."""

    folder: Path
    name: str
    config: dict[str, Any] | None = None
    """Of a model."""
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Lines of ``log.jsonl`` by the name of the run."""
    searches: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    audio: Path | None = None
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the name of the checkpoint."""
    told: dict[str, Any] = field(default_factory=dict)
    """Data, split and folder of the evaluation."""
    notes: list[str] = field(default_factory=list)


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
            run.rows, run.told = last["rows"], {key: last.get(key) for key in ("data", "split", "out")}  # fmt: skip
            if last["dropped"]:
                run.notes.append(
                    f"{last['dropped']} rows of the evaluation are of schedules that a later search replaced and are left out; evaluate again."
                )
        parent = (run.config or {}).get("parent") or {}
        if parent.get("teacher"):
            _add_model(run, Path(parent["teacher"]), "teacher")
        return run
    raise UserError(
        f"{folder}: holds no model and no evaluation; name a folder that student-distill, evaluate or demo wrote"
    )


def _read_evaluation(place: Path, name: str) -> Run:
    run = Run(place, name)
    run.rows, run.details = _json(place / "evaluation.json"), _json(place / "utterances.json")
    run.audio = place / "audio"
    told = place / "command.json"
    command = _json(told) if told.is_file() else {}
    run.told = {
        "data": (command.get("data") or {}).get("source"),
        "split": command.get("split"),
        "out": str(place),
    }
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


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: missing or damaged ({error}); evaluate again") from error


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return found


def write_report(folder: str | Path, target: Path | None = None) -> Path:
    """``report.html`` of one folder; returns its path.

    Raises:
        UserError: nothing to report, or a file that cannot be written.
    """
    from mfdistill.report.page import write_page

    run = read_run(folder)
    return write_page(target or Path(folder) / FILE, single(run))


def single(run: Run) -> dict[str, Any]:
    """The page of one run, as ``report.page.render`` takes it."""
    from mfdistill.report.story import cautions, sentences, tiles

    task = ((run.config or {}).get("task") or {}).get("name") or (run.rows or [{}])[0].get("task")
    title = f"{run.name}: {task}" if task else run.name
    listening = _listening(run)
    keys = list(dict.fromkeys(key for facts in run.facts.values() for key in facts))
    rows = [[key, [facts.get(key, "") for facts in run.facts.values()]] for key in keys]
    return {
        "title": title,
        "subtitle": _subtitle(run),
        "footer": _footer(),
        "tiles": tiles(run.rows),
        "sentences": sentences(run.rows),
        "warnings": [*cautions(run.rows), *_warnings(run)],
        "quality": _quality(run.rows, run.told),
        "listening": listening,
        "utterances": _utterances(run, listening),
        "searches": [_search(found) for found in run.searches],
        "curves": _curves(run.logs),
        "cost": _cost([run]),
        "facts": {"names": list(run.facts), "rows": rows},
        "next": _next(run),
    }


def _footer() -> str:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return f"Made by mfdistill {mfdistill.__version__} on {now:%Y-%m-%d %H:%M} UTC. One file, nothing is loaded from elsewhere."


def _subtitle(run: Run) -> str:
    count = run.rows[0].get("n") if run.rows else None
    rate = run.rows[0].get("sample_rate") if run.rows else None
    parts = [str(run.folder)]
    if count:
        data = f" of {run.told['data']}" if run.told.get("data") else ""
        split = f" ({run.told['split']})" if run.told.get("split") else ""
        parts.append(f"{count} utterances{data}{split}")
    return ", ".join([*parts, *([f"{rate} Hz"] if rate else [])])


def _warnings(run: Run) -> list[str]:
    found = list(run.notes)
    for search in run.searches:
        found += [f"O3S at {search['nfe']} steps: {text}" for text in search.get("warnings", [])]
        part = search.get("comparison") or {"rows": []}
        if part["rows"] and not any(row["significant"] for row in part["rows"]):
            found.append(
                f"O3S at {search['nfe']} steps: what was found is not clearly better than any schedule that costs no search."
            )
    for name, rows in run.logs.items():
        found += [f"{name}: {row['text']}" for row in rows if row.get("kind") == "note"]
        losses = [row for row in rows if row.get("kind") == "train"]
        if any(row.get("loss", 0.0) is None for row in losses):
            found.append(f"{name}: the loss was not finite at some step; see log.jsonl.")
    return list(dict.fromkeys(found))


def _quality(rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> dict[str, Any] | None:
    from mfdistill.report.page import grid
    from mfdistill.report.panels import quality_panels
    from mfdistill.report.story import primary, system_label

    if primary(rows) is None:
        return None
    metrics = [key for key in rows[-1] if f"{key}_ci95" in rows[-1]]
    shown = [{"system": system_label(row), **row} for row in rows]
    modes = {row.get("pesq_mode") for row in rows} if "pesq" in metrics else set()
    pesq = {"nb": "PESQ is narrow-band (P.862.1).", "wb": "PESQ is wide-band (P.862.2)."}
    return {
        "text": "Means over utterances with 95 % confidence intervals; horizontal lines are systems without steps.",
        "panels": quality_panels(rows),
        "table": grid(shown, ["system", *metrics, "rtf", "params"]),
        "note": " ".join(pesq[mode] for mode in modes if mode in pesq),
    }


def _listening(run: Run) -> dict[str, Any] | None:
    from mfdistill.report.listening import players
    from mfdistill.report.story import primary, system_label
    from mfdistill.report.tables import cell, header

    if run.audio is None or not run.audio.is_dir():
        return None
    column = primary(run.rows)
    scores = {(_utterance(row), system_label(row)): row for row in run.details}
    names = list(dict.fromkeys(_utterance(row) for row in run.details))
    worst, best = _extremes(run, column)
    found, level = [], None
    for name in names:
        folder = run.audio / name.replace("/", "_")
        waves, rate = _waves(folder, run.rows, column)
        if not waves:
            continue
        takes, own_level = players(waves, rate)
        level = own_level if level is None else min(level, own_level)
        for take in takes:
            row = scores.get((name, take["system"]))
            shown = [key for key in row or {} if row and f"{key}_ci95" in run.rows[-1]]
            take["scores"] = ", ".join(f"{header(key)} {cell(row or {}, key)}" for key in shown[:3])
        tags = [{"kind": "worst", "text": "worst"}] if name == worst else []
        tags += [{"kind": "best", "text": "best"}] if name == best else []
        found.append({"name": name, "takes": takes, "tags": tags})
    if not found or level is None:
        return None
    return {"level": f"{level:.0f} dB re full scale", "utterances": found}


def _utterance(row: Mapping[str, Any]) -> str:
    return str(row.get("name", row.get("utterance")))


def _extremes(run: Run, column: str | None) -> tuple[str | None, str | None]:
    """Worst and best utterance of the system that the page is about."""
    from mfdistill.metrics import direction
    from mfdistill.report.story import main_row, system_label

    main = main_row(run.rows)
    if column is None or main is None:
        return None, None
    label = system_label(main)
    own = [
        row
        for row in run.details
        if system_label(row) == label and isinstance(row.get(column), (int, float))
    ]
    ranked = sorted(own, key=lambda row: direction(column) * row[column])
    return (_utterance(ranked[0]), _utterance(ranked[-1])) if len(ranked) > 1 else (None, None)


def _waves(
    folder: Path, rows: Sequence[Mapping[str, Any]], column: str | None
) -> tuple[dict[str, Any], int]:
    """Recordings of an utterance by system: the clean one, and of a teacher only the fewest steps
    and the best.
    """
    import soundfile

    from mfdistill.metrics import direction
    from mfdistill.report.story import system_label

    teachers = [row for row in rows if row["model"] == "teacher"]
    if column is not None:
        sign = direction(column)
        best = max(teachers, key=lambda row: sign * (row.get(column) or 0.0), default=None)
        teachers = [row for row in teachers if row in (teachers[0], best)]
    chosen = [row for row in rows if row["model"] != "teacher" or row in teachers]
    files = {"clean": folder / "clean.wav"} | {
        system_label(row): folder
        / f"{wav_name(row['model'], row['nfe'] or 0, row.get('schedule') or '')}.wav"
        for row in chosen
    }
    waves, rate = {}, 0
    for name, file in files.items():
        if file.is_file():
            waves[name], rate = soundfile.read(file, dtype="float32")
    return waves, rate


def _utterances(run: Run, listening: Mapping[str, Any] | None) -> dict[str, Any] | None:
    from mfdistill.report.page import utterance_scores
    from mfdistill.report.story import main_row, system_label

    main = main_row(run.rows)
    if main is None or not run.details:
        return None
    heard = [item["name"] for item in listening["utterances"]] if listening else []
    return utterance_scores(run.details, system_label, system_label(main), "unprocessed", heard)


def _search(found: Mapping[str, Any]) -> dict[str, Any]:
    from mfdistill.report.page import grid
    from mfdistill.report.panels import search_panels
    from mfdistill.report.schedules import comparison_rows, comparison_where
    from mfdistill.report.tables import header

    column = str(found.get("column") or found["metric"])
    text = f"{found.get('scored', len(found['evaluations']))} schedules were scored on {found['n']} utterances by {header(column)}"
    text += f" in {found['seconds'] / 60:.1f} min" if found.get("seconds") else ""
    text += f"; stopped: {found['stopped']}" if found.get("stopped") else ""
    if found.get("unimodal") is False:
        text += "; the score has more than one maximum along some step, so that the search may have missed the best"
    table = None
    if found.get("comparison"):
        text += f". The table is {comparison_where(found['comparison'])}"
        rows = comparison_rows(found)
        table = grid(rows, list(rows[0]))
    return {
        "title": f"{found['nfe']} steps: {' '.join(f'{t:.3f}' for t in found['schedule'])}",
        "text": text + ".",
        "panels": search_panels(found),
        "table": table,
    }


def _curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    from mfdistill.report.curves import curves
    from mfdistill.report.panels import curve_panels

    return [
        {"title": name, "panels": curve_panels({name: rows})}
        for name, rows in logs.items()
        if curves(rows)
    ]


def _cost(runs: Sequence[Run]) -> dict[str, Any] | None:
    from mfdistill.report.page import grid
    from mfdistill.report.story import system_label

    rows: list[dict[str, Any]] = []
    for run in runs:
        delays = _latency(run.config)
        for row in run.rows:
            rtf = row.get("rtf")
            if isinstance(rtf, (int, float)):
                rows.append(
                    {"system": system_label(row), "NFE": row.get("nfe"), "real-time factor": rtf, "times real time": 1 / rtf if rtf else None}
                    | (delays if row["model"] == "student" else {})
                )  # fmt: skip
    if not rows:
        return None
    text = "Real-time factor: time of features, network and resynthesis over that of the audio, on the machine that evaluated, which may have been busy. "
    text += (
        "Latency is that of a stream: algorithmic, and with a whole hop for computing."
        if any("latency (ms)" in row for row in rows)
        else "The student sees later frames, so it has no latency as a stream; train with --causal for one."
    )
    columns = [key for key in ("system", "NFE", "real-time factor", "times real time", "latency (ms)", "with a hop (ms)") if any(key in row for row in rows)]  # fmt: skip
    return {"text": text, "table": grid(rows, columns)}


def _latency(config: Mapping[str, Any] | None) -> dict[str, float]:
    stft = ((config or {}).get("task") or {}).get("stft") or {}
    if not stft.get("causal"):
        return {}
    rate, n_fft, hop = stft["sample_rate"], stft["n_fft"], stft["hop"]
    return {"latency (ms)": 1000 * n_fft / rate, "with a hop (ms)": 1000 * (n_fft + hop) / rate}


def _next(run: Run) -> list[tuple[str, str]]:
    """What can be done with the student."""
    student = run.facts.get("student", {}).get("folder")
    if student is None:
        teacher = run.facts.get("teacher", {}).get("folder")
        return [("Distil it:", f"mfdistill student-distill --teacher {teacher}")] if teacher else []
    found = []
    causal = bool(_latency(run.config))
    mel = "mel" in ((run.config or {}).get("task") or {})
    if not run.rows:
        found.append(
            ("Compare it with its teacher:", f"mfdistill evaluate --student {student} --out {student}-evaluation")
        )  # fmt: skip
    if not run.searches:
        found.append(
            ("Place two steps where they matter most:", f"mfdistill os3-search --student {student} --nfe 2")
        )  # fmt: skip
    if run.rows and not any(row["model"] == "regression" for row in run.rows):
        data = run.facts["student"].get("data") or "embedded"
        task = (run.config or {}).get("task") or {}
        rate = (task.get("stft") or {}).get("sample_rate")
        if task.get("name") and rate:
            found.append(
                (
                    "Train a regression network of the same size to compare with, and evaluate with --regression:",
                    f"mfdistill teacher-train --objective regression --task {task['name']} --sample-rate {rate} --data {data} --out {student}-regression",
                )
            )
    if not mel:
        found.append(
            ("Use it on files:", f"mfdistill restore {student} recordings restored --nfe 1")
        )
    if causal:
        found.append(
            ("Stream it:", f"mfdistill stream noisy.wav clean.wav --student {student} --nfe 1")
        )
    found.append(
        ("Repeat the training with other options, and compare:", f"mfdistill student-distill --config {student}/config.json --out {student}-2\nmfdistill compare {student} {student}-2")
    )  # fmt: skip
    return found


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """The page of several runs side by side."""
    from mfdistill.report.panels import curve_panels
    from mfdistill.report.story import cautions, sentences, system_label

    names = _names(runs)
    rows = [
        {**row, "run": name} if row["model"] != "unprocessed" else {**row, "run": name}
        for name, run in zip(names, runs, strict=True)
        for row in run.rows
    ]
    said = []
    for name, run in zip(names, runs, strict=True):
        said += [f"{name}: {text}" for text in sentences(run.rows)]
    facts = [next(iter(run.facts.values()), {}) for run in runs]
    keys = list(dict.fromkeys(key for own in facts for key in own))
    different = [key for key in keys if len({own.get(key, "") for own in facts}) > 1]
    told = [[key, [own.get(key, "") for own in facts]] for key in different]
    told += [["the same in all", ["; ".join(f"{key}: {facts[0][key]}" for key in keys if key not in different)] + [""] * (len(runs) - 1)]]  # fmt: skip
    logs = {
        name: next(iter(run.logs.values()))
        for name, run in zip(names, runs, strict=True)
        if run.logs
    }
    warnings = [
        f"{name}: {text}"
        for name, run in zip(names, runs, strict=True)
        for text in [*cautions(run.rows), *_warnings(run)]
    ]
    warnings = _incomparable(names, runs) + warnings
    details = [{**row, "run": n} for n, run in zip(names, runs, strict=True) for row in run.details]
    from mfdistill.report.page import utterance_scores

    labels = list(dict.fromkeys(system_label(row) for row in details))
    return {
        "title": " and ".join(names) if len(names) < 3 else f"{len(names)} runs",
        "subtitle": ", ".join(str(run.folder) for run in runs),
        "footer": _footer(),
        "tiles": [tile for n, run in zip(names, runs, strict=True) for tile in _run_tiles(n, run)],
        "sentences": said,
        "warnings": warnings,
        "quality": _quality(rows, {}),
        "utterances": utterance_scores(details, system_label, labels[-1], labels[0])
        if details
        else None,
        "searches": [
            {**_search(found), "title": f"{name}, {_search(found)['title']}"}
            for name, run in zip(names, runs, strict=True)
            for found in run.searches
        ],
        "curves": [{"title": ", ".join(logs), "panels": curve_panels(logs)}] if logs else [],
        "cost": _cost([_renamed(run, name) for name, run in zip(names, runs, strict=True)]),
        "facts": {"names": names, "rows": told},
    }


def _renamed(run: Run, name: str) -> Run:
    return Run(run.folder, name, run.config, rows=[{**row, "run": name} for row in run.rows])


def _run_tiles(name: str, run: Run) -> list[dict[str, Any]]:
    """Of each run the number that it is about."""
    from mfdistill.report.story import tiles

    return [{**tile, "label": f"{name}: {tile['label']}"} for tile in tiles(run.rows) if tile["main"]]  # fmt: skip


def _names(runs: Sequence[Run]) -> list[str]:
    """Names that tell the runs apart: the folder's, with as much of its path as that takes."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("compare: the same folder is named twice; name each once")


def _incomparable(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """What makes the numbers of the runs no comparison."""
    found = []
    for what, value in (
        ("data", lambda run: (run.told.get("data"), run.told.get("split"))),
        ("numbers of utterances", lambda run: run.rows[0].get("n")),
        ("tasks", lambda run: run.rows[0].get("task")),
        ("sample rates", lambda run: run.rows[0].get("sample_rate")),
    ):
        values = {name: value(run) for name, run in zip(names, runs, strict=True) if run.rows}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {held}" for name, held in values.items())
            found.append(f"The runs were evaluated on different {what} ({listed}).")
    return found
