"""What is made from a model's folder and never edited: its card and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.checkpoint import load_config, write_text
from mfdistill.commands.results import evaluations, holds_results, searches
from mfdistill.plain import Section

if TYPE_CHECKING:
    from mfdistill.report.card import Said


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
    held, found = evaluations(folder), searches(folder)
    config = load_config(folder)
    return card_of(config, where=where, evaluations=held, searches=found, license=license)


def card_of(config: Section, **given: Any) -> str:
    """``report.model_card`` with what task and system say of themselves."""
    from mfdistill.report import model_card

    return model_card(config, **given, said=said_of(config))


def said_of(config: Section) -> Said:
    """What a model's task and system say for its card."""
    from mfdistill.report.card import Said
    from mfdistill.systems.table import SYSTEMS, mel_task
    from mfdistill.tasks import TASKS

    parent, name = config.get("parent"), str((config.get("task") or {}).get("name"))
    kind = (parent.get("kind") if isinstance(parent, Mapping) else None) or config.get("kind")
    system = SYSTEMS.get(str(kind))
    licence = None if system is None else system.licence
    if name in SYSTEMS and SYSTEMS[name].mel is not None:
        task = mel_task(name)
        return Said(task.about, task.example, task.restores, licence)
    if name in TASKS:
        cls = TASKS[name][0]
        return Said(cls.about, cls.example, cls.restores, licence)
    return Said(licence=licence)
