"""What evaluate writes: table, figure, card, WAV files, page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.commands.runs import wav_name
from mfdistill.plain import Plain, Row

if TYPE_CHECKING:
    import numpy as np

    from mfdistill.data.open import EvalRows
    from mfdistill.distill.inference import Steps
    from mfdistill.distill.opening import Model
    from mfdistill.tasks import Task

_WIDE = 140  # columns of a terminal that the whole table fits into


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    model: str
    nfe: int
    schedule: str
    steps: Steps | None = None
    source: Model | None = None
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        return wav_name(self.model, self.nfe, self.schedule)

    def about(self, task: Task) -> Plain:
        """What names its rows."""
        return {
            "task": task.config.name,
            "model": self.model,
            "nfe": self.nfe,
            "schedule": self.schedule,
        }

    def facts(self, task: Task) -> Plain:
        """What else its row says."""
        from mfdistill.metrics import pesq_mode

        config: Row = {} if self.source is None else self.source.config
        return {
            "objective": (config.get("objective") or {}).get("name"),
            "network": (config.get("network") or {}).get("name"),
            "params": None if self.source is None else self.source.params,
            "sample_rate": task.sample_rate,
            "pesq_mode": pesq_mode(task.sample_rate),
            "checkpoint": self.checkpoint,
            "times": list(self.steps) if isinstance(self.steps, Sequence) else None,
        }


@dataclass(frozen=True)
class Heard:
    """The utterances whose sound is written, by their numbers."""

    out: Path
    utterances: EvalRows
    numbers: list[int]

    def write(self, label: str, task: Task, number: int, wave: np.ndarray) -> None:
        """One waveform (s,)."""
        from mfdistill.audio.io import write_audio

        name = self.utterances.names[number].replace("/", "_")
        file = self.out / "audio" / name / f"{label}.wav"
        write_audio(file, wave, task.sample_rate, subtype="FLOAT")


def heard_ones(
    utterances: EvalRows,
    most: int,
    rows: Sequence[Row],
    details: Sequence[Row],
) -> list[int]:
    """Numbers of the utterances that are written: the first ones, then what the student does worst
    and best.
    """
    from mfdistill.report.story import extremes

    first = list(range(min(most, len(utterances))))
    found = [utterances.names.index(name) for name in extremes(rows, details)] if first else []
    return first + [index for index in found if index not in first]


def write_evaluation(
    heard: Heard,
    task: Task,
    entries: Sequence[Entry],
    rows: Sequence[Row],
    details: Sequence[Row],
    told: Row,
    command: Row,
) -> None:
    """The folder of an evaluation, and what its models keep of it; ``told``: data, split, limit and
    folder.
    """
    from mfdistill.checkpoint import write_json, write_text
    from mfdistill.commands.derived import card_of, refresh
    from mfdistill.commands.pages import write_report
    from mfdistill.commands.results import holds_results, keep
    from mfdistill.distill.logs import say
    from mfdistill.report import quality_plot, write_table

    out = heard.out
    write_table(out / "evaluation", rows)
    write_table(out / "utterances", details)
    title = f"{task.config.name}, {task.sample_rate} Hz, {rows[0]['n']} utterances"
    quality_plot(rows, out / "quality.png", title=title)
    config: Row = next(
        (entry.source.config for entry in reversed(entries) if entry.source is not None), {}
    )
    where = next((entry.checkpoint for entry in reversed(entries) if entry.checkpoint), None)
    write_text(out / "README.md", card_of(config, rows=rows, where=where))
    write_json(out / "command.json", command)
    models = sorted({entry.checkpoint for entry in entries if entry.checkpoint})
    for folder in models:
        if holds_results(Path(folder)):
            keep(Path(folder), {**told, "rows": rows})
    for number in heard.numbers:
        heard.write("clean", task, number, heard.utterances[number]["clean"].numpy())
    show(rows, f"{title} ({told['split']}), mean ± 95 % confidence")
    for folder in models:
        refresh(folder)
    write_report(out)
    say(
        f"{out}: report.html, evaluation.csv and .json, utterances.csv and .json, quality.png, README.md"
        + (", audio/" if heard.numbers else "")
    )


def write_differences(out: Path, rows: Sequence[Row], against: str) -> None:
    """The table of paired differences to one system."""
    from mfdistill.distill.logs import say
    from mfdistill.report import write_table

    write_table(out / "differences", rows)
    show(rows, f"difference to {against}, mean ± 95 % confidence of pairs", paired=True)
    say(f"{out}: differences.csv and .json")


def show(rows: Sequence[Row], title: str, paired: bool = False) -> None:
    """The table; a narrow terminal gets it without intervals and with the model's columns in
    one.
    """
    from rich.console import Console

    from mfdistill.metrics import column_of
    from mfdistill.report import table

    console = (
        Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
    )
    metrics = [
        column
        for column in rows[-1]
        if f"{column}_ci95" in rows[-1] and not ((own := column_of(column)) and own.minor)
    ]
    facts = [] if paired else ["params", "rtf"]
    if paired or console.width >= _WIDE:
        console.print(table(rows, ["model", "nfe", "schedule", *facts, *metrics], title=title))
        return
    short = [
        {
            "system": f"{row['model']} {row['nfe'] or ''} {row['schedule'].replace('uniform', '')}".strip()
        }
        | dict(row)
        for row in rows
    ]
    plain = [
        {key: value for key, value in row.items() if not key.endswith("_ci95")} for row in short
    ]
    console.print(table(plain, ["system", "rtf", *metrics], title=title.split(", mean")[0]))
    sizes = {
        row["model"]: f"{row['model']} {row['params'] / 1e6:.2f} M parameters"
        for row in rows
        if row["params"]
    }
    console.print(
        f"{', '.join(sizes.values())}; confidence intervals are in evaluation.csv (or widen the terminal)"
    )
