"""compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mfdistill.commands.runs import Run
from mfdistill.errors import UserError
from mfdistill.plain import Plain


@dataclass(frozen=True)
class Compare:
    """One page of several runs side by side (or of one): what differs, quality, curves, searches,
    every utterance.
    """

    runs: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN...")]]
    """Folders that student-distill, evaluate or demo wrote."""
    out: str = "runs/comparison.html"
    """The page."""


def run(command: Compare) -> Path:
    """Write the page; returns its path.

    Raises:
        UserError: a folder that holds no run, or a page that cannot be written.
    """
    from mfdistill.commands.pages import single
    from mfdistill.commands.runs import read_run
    from mfdistill.distill.logs import say
    from mfdistill.report.page import write_page

    if not command.runs:
        raise UserError(
            "compare: names no run; give folders that student-distill or evaluate wrote"
        )
    runs = [read_run(folder) for folder in command.runs]
    page = single(runs[0]) if len(runs) == 1 else compared(runs)
    path = write_page(Path(command.out), page)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return path


def compared(runs: Sequence[Run]) -> Plain:
    """The page of several runs side by side."""
    from mfdistill.commands.pages import cost, footer, quality, search, warnings_of
    from mfdistill.report.page import utterance_scores
    from mfdistill.report.panels import curve_panels
    from mfdistill.report.story import cautions, sentences, system_label

    names = _names(runs)
    rows = [{**row, "run": name} for name, run in zip(names, runs, strict=True) for row in run.rows]
    said = []
    for name, run in zip(names, runs, strict=True):
        said += [f"{name}: {text}" for text in sentences(run.rows)]
    facts = [next(iter(run.facts.values()), {}) for run in runs]
    keys = list(dict.fromkeys(key for own in facts for key in own))
    different = [key for key in keys if len({own.get(key, "") for own in facts}) > 1]
    told = [[key, [own.get(key, "") for own in facts]] for key in different]
    same = "; ".join(f"{key}: {facts[0][key]}" for key in keys if key not in different)
    told.append(["the same in all", [same] + [""] * (len(runs) - 1)])
    logs = {
        name: next(iter(run.logs.values()))
        for name, run in zip(names, runs, strict=True)
        if run.logs
    }
    warnings = [
        f"{name}: {text}"
        for name, run in zip(names, runs, strict=True)
        for text in [*cautions(run.rows), *warnings_of(run)]
    ]
    details = [{**row, "run": n} for n, run in zip(names, runs, strict=True) for row in run.details]
    labels = list(dict.fromkeys(system_label(row) for row in details))
    return {
        "title": " and ".join(names) if len(names) < 3 else f"{len(names)} runs",
        "subtitle": ", ".join(str(run.folder) for run in runs),
        "footer": footer(),
        "tiles": [tile for n, run in zip(names, runs, strict=True) for tile in _run_tiles(n, run)],
        "sentences": said,
        "warnings": [*_incomparable(names, runs), *warnings],
        "quality": quality(rows),
        "utterances": utterance_scores(details, system_label, labels[-1], labels[0])
        if details
        else None,
        "searches": [
            {**search(found), "title": f"{name}, {search(found)['title']}"}
            for name, run in zip(names, runs, strict=True)
            for found in run.searches
        ],
        "curves": [{"title": ", ".join(logs), "panels": curve_panels(logs)}] if logs else [],
        "cost": cost([_renamed(run, name) for name, run in zip(names, runs, strict=True)]),
        "facts": {"names": names, "rows": told},
    }


def _renamed(run: Run, name: str) -> Run:
    return Run(run.folder, name, run.config, rows=[{**row, "run": name} for row in run.rows])


def _run_tiles(name: str, run: Run) -> list[Plain]:
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
