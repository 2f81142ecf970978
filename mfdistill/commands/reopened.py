"""What a student's ``config.json`` says of the run that made it: its data, and its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.commands.options import read_sizes
from mfdistill.commands.tts_options import GuidanceOptions
from mfdistill.config import from_dict
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.plain import Section

if TYPE_CHECKING:
    from mfdistill.tasks.base import Draws
    from mfdistill.teachers import Field


def saved_rows(config: Section, where: str) -> tuple[TTSOptions, int, Draws]:
    """How rows were made of the data, their seed, and what was drawn beside them; streaming form is
    for training alone.

    Raises:
        UserError: damaged; ``where`` names the file.
    """
    from mfdistill.tasks.base import Draws

    tts = from_dict(TTSOptions, config.get("tts") or {}, f"{where}: tts")
    seed = int((config.get("training") or {}).get("seed", 0))
    return tts, seed, Draws(0.0, _guidance(config, where).range, seed)


def open_parent(config: Section, folder: Path, named: str | None = None) -> Field:
    """A student's teacher, under the guidance that it learnt from.

    Args:
        config: of the student, in ``folder``. named: another teacher's folder or file.

    Raises:
        UserError: it is not known, or not there any more.
    """
    from mfdistill.teachers import load_teacher

    parent = config.get("parent") or {}
    if named is None and parent.get("teacher") is None:
        raise UserError(f"--teacher: {folder} does not say whose student it is; name its teacher")
    teacher = load_teacher(
        named or str(parent["teacher"]),
        None if named else parent.get("kind"),
        config=None if named else read_sizes(parent.get("sizes")),
    )
    guidance = _guidance(config, f"{folder}/config.json")
    strength = None if guidance.range else parent.get("guidance_strength")
    teacher.guide_by(strength, guidance.range, guidance.rule)
    return teacher


def _guidance(config: Section, where: str) -> GuidanceOptions:
    return from_dict(GuidanceOptions, config.get("guidance") or {}, f"{where}: guidance")
