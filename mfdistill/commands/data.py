"""data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from mfdistill.data.check import Report

SHOWN = 20  # findings of a kind on the terminal


@dataclass(frozen=True)
class Data:
    """Look at a corpus before hours are spent on it: 'check' decodes everything once and says what
    is unreadable, not finite, silent, clipped, of another rate, mismatched, out of alignment, or
    there twice.
    """

    action: Positional[Literal["check"]]
    """What to do."""
    corpus: Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER|HUB-ID")]]
    """What --data takes."""
    report: str | None = None
    """A JSON file for all findings."""
    sample_rate: int = 16000
    """Hz, of the task; recordings with less are reported."""
    clean_column: str = "clean"
    noisy_column: str = "noisy"
    """Of a table."""


def run(command: Data) -> Report:
    """Check as ``command`` says; returns what was found.

    Raises:
        UserError: a corpus that is not understood, or recordings that would stop a training run.
    """
    from rich.console import Console
    from rich.table import Table

    from mfdistill.checkpoint import write_json
    from mfdistill.data.check import FATAL, check_corpus
    from mfdistill.data.config import DataConfig
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError

    config = DataConfig(
        command.corpus, clean_column=command.clean_column, noisy_column=command.noisy_column
    )
    found = check_corpus(config, command.sample_rate)
    for split, count in found.files.items():
        say(f"{command.corpus}, {split}: {count} files, {found.seconds[split] / 60:.1f} min")
    table, shown = (
        Table("finding", "split", "file", "what", box=None),
        dict.fromkeys(found.counts, 0),
    )
    for finding in sorted(found.findings, key=lambda finding: finding.kind):
        shown[finding.kind] += 1
        if shown[finding.kind] <= SHOWN:
            table.add_row(finding.kind, finding.split, finding.name, finding.detail)
    if found.findings:
        Console(highlight=False).print(table)
    say(
        ", ".join(f"{kind}: {count}" for kind, count in sorted(found.counts.items()))
        or "nothing is wrong with it"
    )
    if command.report is not None:
        write_json(
            Path(command.report),
            {
                "corpus": command.corpus,
                "files": dict(found.files),
                "seconds": dict(found.seconds),
                "findings": [asdict(finding) for finding in found.findings],
            },
        )
        say(f"{command.report}: written")
    if fatal := sum(found.counts[kind] for kind in FATAL):
        raise UserError(
            f"{command.corpus}: {fatal} recordings would stop a training run; replace them, or train with --on-bad-file skip"
        )
    return found
