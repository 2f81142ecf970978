"""The systems by name, and which of them a file is of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfdistill.errors import UserError
from mfdistill.plain import Section
from mfdistill.systems.base import Misfit, System, Writer
from mfdistill.systems.chatterbox import CHATTERBOX
from mfdistill.systems.cosyvoice2 import COSYVOICE2
from mfdistill.systems.cosyvoice3 import COSYVOICE3
from mfdistill.systems.f5 import F5, F5_UNETT
from mfdistill.systems.files import read_foreign
from mfdistill.systems.flowse import FLOWSE
from mfdistill.systems.matcha import MATCHA
from mfdistill.systems.meanflowse import MEANFLOWSE
from mfdistill.systems.sgmse import SGMSE
from mfdistill.systems.streamfm import STREAMFM
from mfdistill.systems.voxcpm import VOXCPM
from mfdistill.systems.zipvoice import ZIPVOICE
from mfdistill.tasks.foreign import ForeignTask, mel_flow

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        MEANFLOWSE, FLOWSE, SGMSE, STREAMFM, CHATTERBOX, COSYVOICE2, MATCHA, COSYVOICE3, F5, F5_UNETT,
        ZIPVOICE, VOXCPM,
    )
}  # fmt: skip
"""A file is of the first system that recognises it."""


def mel_task(name: str, mels: int | None = None, **changes: Any) -> ForeignTask:
    """The task of a text-to-speech system (``tasks.foreign.mel_flow``).

    Raises:
        UserError: no such system.
    """
    system = SYSTEMS.get(name)
    if system is None or system.mel is None:
        known = [own.name for own in SYSTEMS.values() if own.mel is not None]
        raise UserError(f"{name}: no text-to-speech system; this version has {', '.join(known)}")
    return mel_flow(system.mel, mels, **changes)


def layouts() -> dict[str, Writer]:
    """All layouts that students can be written in."""
    return {name: write for system in SYSTEMS.values() for name, write in system.layouts.items()}


def recognise_tensors(names: Collection[str]) -> str | None:
    """The system whose weights are called like ``names``; None if none is."""
    return next((name for name, system in SYSTEMS.items() if system.recognise(names)), None)


def recognise(place: Path) -> str | None:
    """The system of a file, or of a folder with one checkpoint that could be meant; None for
    others, such as folders of this program.

    Raises:
        UserError: an unreadable file, or one that could be of two systems.
    """
    if place.is_dir():
        return _in_folder(place)
    names = read_foreign(place).names()
    if (name := recognise_tensors(names)) is not None:
        return name
    if any(key.endswith("all_modules.0.W") for key in names):
        raise UserError(
            f"{place}: weights without hyper-parameters, of FlowSE or of SGMSE; say which with --kind flowse or --kind sgmse"
        )
    return None


def _in_folder(place: Path) -> str | None:
    named = [file for name in ("flow.pt", "flow.safetensors") if (file := place / name).is_file()]
    files = named[:1] or [
        file
        for file in place.iterdir()
        if file.suffix in (".safetensors", ".pt") and not file.name.startswith(".")
    ]
    name = None if (place / "config.json").is_file() or len(files) != 1 else recognise(files[0])
    return name if name is not None and SYSTEMS[name].folders else None


def role_of(place: Path) -> str | None:
    """ "teacher" or "student", of a system's file; None of others."""
    system = SYSTEMS.get(str(recognise(place)))
    if system is None:
        return None
    if system.role is not None:
        return system.role(place)
    return "teacher" if system.read_student is None else "student"


def mel_system(
    place: Path, config: Section | None = None, kind: str | None = None
) -> System | None:
    """The text-to-speech system of a folder of ours with such a ``config``, or of a file (of
    ``kind``, where that is named); None of everything else.
    """
    name = kind or (None if config else recognise(place))
    if config:
        name = (config.get("task") or {}).get("name")
    system = SYSTEMS.get(str(name))
    return system if system is not None and system.mel is not None else None


@contextmanager
def telling_what_it_is() -> Iterator[None]:
    """Errors of files that do not fit say what system they look like."""
    try:
        yield
    except Misfit as error:
        if error.looks:
            raise
        name = recognise_tensors(error.names)
        looks = f"it looks like kind {name}" if name else "it looks like a file of another program"
        raise UserError(f"{error.text}; {looks}; {error.remedy}") from error
