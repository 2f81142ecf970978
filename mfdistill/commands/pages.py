"""The page of one run, from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mfdistill.commands.runs import Run, read_run, wav_name
from mfdistill.plain import Plain, Row
from mfdistill.version import __version__

FILE = "report.html"
_HARMLESS = ("nothing to resume, so this starts at step 0",)
"""Ends of notes, of earlier versions too, that are no caution."""
_ALGORITHMIC, _TOTAL = "latency (ms)", "with a hop (ms)"


def write_report(folder: str | Path, target: Path | None = None) -> Path:
    """``report.html`` of one folder; returns its path.

    Raises:
        UserError: nothing to report, or a file that cannot be written.
    """
    from mfdistill.report.page import write_page

    run = read_run(folder)
    return write_page(target or Path(folder) / FILE, single(run))


def single(run: Run) -> Plain:
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
        "footer": footer(),
        "tiles": tiles(run.rows),
        "sentences": sentences(run.rows),
        "warnings": [*cautions(run.rows), *warnings_of(run)],
        "quality": quality(run.rows, run.differences, run.told.get("against")),
        "listening": listening,
        "utterances": _utterances(run, listening),
        "searches": [search(found) for found in run.searches],
        "curves": _curves(run.logs),
        "cost": cost([run]),
        "facts": {"names": list(run.facts), "rows": rows},
        "next": _next(run),
    }


def footer() -> str:
    """When and by what the page was made."""
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return f"Made by mfdistill {__version__} on {now:%Y-%m-%d %H:%M} UTC. One file, nothing is loaded from elsewhere."


def _subtitle(run: Run) -> str:
    count = run.rows[0].get("n") if run.rows else None
    rate = run.rows[0].get("sample_rate") if run.rows else None
    parts = [str(run.folder)]
    if count:
        data = f" of {run.told['data']}" if run.told.get("data") else ""
        split = f" ({run.told['split']})" if run.told.get("split") else ""
        parts.append(f"{count} utterances{data}{split}")
    return ", ".join([*parts, *([f"{rate} Hz"] if rate else [])])


def warnings_of(run: Run) -> list[str]:
    """What the searches and logs of a run warn of."""
    found = list(run.notes)
    for search in run.searches:
        found += [f"O3S at {search['nfe']} steps: {text}" for text in search.get("warnings", [])]
        part = search.get("comparison") or {"rows": []}
        if part["rows"] and not any(row["significant"] for row in part["rows"]):
            found.append(
                f"O3S at {search['nfe']} steps: what was found is not clearly better than any schedule that costs no search."
            )
    for name, rows in run.logs.items():
        found += [
            f"{name}: {row['text']}"
            for row in rows
            if row.get("kind") == "note" and not row["text"].endswith(_HARMLESS)
        ]
        losses = [row for row in rows if row.get("kind") == "train"]
        if any(row.get("loss", 0.0) is None for row in losses):
            found.append(f"{name}: the loss was not finite at some step; see log.jsonl.")
    return list(dict.fromkeys(found))


def quality(
    rows: Sequence[Row],
    differences: Sequence[Row] = (),
    against: str | None = None,
) -> Plain | None:
    """The section of metrics against evaluations, with paired differences to the system
    ``against``; None without any.
    """
    from mfdistill.report.page import grid
    from mfdistill.report.panels import quality_panels
    from mfdistill.report.story import primary, system_label

    if primary(rows) is None:
        return None
    metrics = [key for key in rows[-1] if f"{key}_ci95" in rows[-1]]
    shown = [{"system": system_label(row), **row} for row in rows]
    apart = [{"system": system_label(row), **row} for row in differences]
    modes = {row.get("pesq_mode") for row in rows} if "pesq" in metrics else set()
    pesq = {"nb": "PESQ is narrow-band (P.862.1).", "wb": "PESQ is wide-band (P.862.2)."}
    return {
        "text": "Means over utterances with 95 % confidence intervals; horizontal lines are systems without steps.",
        "panels": quality_panels(rows),
        "table": grid(shown, ["system", *metrics, "rtf", "params"]),
        "against": against,
        "differences": grid(apart, ["system", *metrics]) if apart else None,
        "note": " ".join(pesq[mode] for mode in modes if mode in pesq),
    }


def _listening(run: Run) -> Plain | None:
    from mfdistill.report.listening import players
    from mfdistill.report.story import extremes, primary, system_label, utterance
    from mfdistill.report.tables import cell, header

    if run.audio is None or not run.audio.is_dir():
        return None
    column = primary(run.rows)
    scores = {(utterance(row), system_label(row)): row for row in run.details}
    names = list(dict.fromkeys(utterance(row) for row in run.details))
    worst, best = (*extremes(run.rows, run.details), None, None)[:2]
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


def _waves(folder: Path, rows: Sequence[Row], column: str | None) -> tuple[Plain, int]:
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


def _utterances(run: Run, listening: Row | None) -> Plain | None:
    from mfdistill.report.page import utterance_scores
    from mfdistill.report.story import main_row, system_label

    main = main_row(run.rows)
    if main is None or not run.details:
        return None
    heard = [item["name"] for item in listening["utterances"]] if listening else []
    return utterance_scores(run.details, system_label, system_label(main), "unprocessed", heard)


def search(found: Row) -> Plain:
    """One search of the section of schedules, from its ``o3s.json``."""
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


def _curves(logs: Mapping[str, Sequence[Row]]) -> list[Plain]:
    from mfdistill.report.curves import curves
    from mfdistill.report.panels import curve_panels

    return [
        {"title": name, "panels": curve_panels({name: rows})}
        for name, rows in logs.items()
        if curves(rows)
    ]


def cost(runs: Sequence[Run]) -> Plain | None:
    """The section of real-time factors and latencies; None where nothing was timed."""
    from mfdistill.report.page import grid
    from mfdistill.report.story import system_label

    rows: list[Plain] = []
    for run in runs:
        delays = _latency(run.config)
        for row in run.rows:
            rtf = row.get("rtf")
            if not isinstance(rtf, (int, float)) or not rtf:
                continue
            speed = {"real-time factor": rtf, "times real time": 1 / rtf}
            own = delays if row["model"] == "student" else {}
            rows.append({"system": system_label(row), "NFE": row.get("nfe"), **speed, **own})
    if not rows:
        return None
    streams = any(_ALGORITHMIC in row for row in rows)
    text = (
        "Real-time factor: time of features, network and resynthesis over that of the audio, on the machine that evaluated, "
        "which may have been busy. "
    )
    text += (
        "Latency is that of a stream: algorithmic, and with a whole hop for computing."
        if streams
        else "The student sees later frames, so it has no latency as a stream; train with --causal for one."
    )
    columns = ["system", "NFE", "real-time factor", "times real time"]
    columns += [_ALGORITHMIC, _TOTAL] if streams else []
    return {"text": text, "table": grid(rows, columns)}


def _latency(config: Row | None) -> dict[str, float]:
    stft = ((config or {}).get("task") or {}).get("stft") or {}
    if not stft.get("causal"):
        return {}
    rate, n_fft, hop = stft["sample_rate"], stft["n_fft"], stft["hop"]
    return {_ALGORITHMIC: 1000 * n_fft / rate, _TOTAL: 1000 * (n_fft + hop) / rate}


def _next(run: Run) -> list[tuple[str, str]]:
    """What can be done with the student: words and commands."""
    student = run.facts.get("student", {}).get("folder")
    if student is None:
        teacher = run.facts.get("teacher", {}).get("folder")
        return [("Distil it:", f"mfdistill student-distill --teacher {teacher}")] if teacher else []
    task = (run.config or {}).get("task") or {}
    rate = (task.get("stft") or {}).get("sample_rate")
    told = []
    if not run.rows:
        told.append(
            (
                "Compare it with its teacher:",
                f"mfdistill evaluate --student {student} --out {student}-evaluation",
            )
        )
    if not run.searches:
        told.append(
            (
                "Place two steps where they matter most:",
                f"mfdistill os3-search --student {student} --nfe 2",
            )
        )
    if rate and run.rows and not any(row["model"] == "regression" for row in run.rows):
        data = run.facts["student"].get("data") or "embedded"
        told.append(
            (
                "Train a regression network of the same size to compare with, and evaluate with --regression:",
                f"mfdistill teacher-train --objective regression --task {task['name']} --sample-rate {rate} --data {data} "
                f"--out {student}-regression",
            )
        )
    if rate:
        told.append(("Use it on files:", f"mfdistill restore {student} recordings restored"))
    if _latency(run.config):
        told.append(("Stream it:", f"mfdistill stream noisy.wav clean.wav --student {student}"))
    if run.facts["student"].get("training"):
        repeat = f"mfdistill student-distill --config {student}/config.json --out {student}-2"
        told.append(
            (
                "Repeat the training with other options, and compare:",
                f"{repeat}\nmfdistill compare {student} {student}-2",
            )
        )
    return told
