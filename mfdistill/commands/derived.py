"""What is made from a model's folder and never edited: its card and its page."""

from __future__ import annotations

from pathlib import Path

from mfdistill.checkpoint import load_config, write_text
from mfdistill.commands.results import evaluations, holds_results, searches


def refresh(folder: str | Path, page: bool = True) -> None:
    """Write ``README.md`` and, with ``page``, ``report.html`` anew from what the folder holds now;
    called whenever its weights, schedules, searches or evaluations change. A folder that holds no
    model of ours, or cannot be written, is left alone.

    Raises:
        UserError: a damaged file in it, or one that cannot be written.
    """
    from mfdistill.commands.pages import write_report

    place = Path(folder)
    if not holds_results(place):
        return
    write_text(place / "README.md", card(place, str(folder)))
    if page:
        write_report(place)


def card(folder: Path, where: str, license: str | None = None) -> str:
    """The model card of a folder; ``where``: how its commands name the model."""
    from mfdistill.report import model_card

    held, found = evaluations(folder), searches(folder)
    return model_card(
        load_config(folder), where=where, evaluations=held, searches=found, license=license
    )
