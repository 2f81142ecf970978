"""The command that made a run, in the run's ``config.json``: written as it is, read back by one
call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section

T = TypeVar("T")
EARLIER: Mapping[str, Plain] = {"student-finish": {"keep": 1.0}}
"""By command: what settings were before they could be given, where their defaults are not that."""


def name_of(command: type) -> str:
    """``StudentDistill`` -> ``student-distill``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", command.__name__).lower()


def recorded(command: Any) -> Plain:
    """The section "command" of a ``config.json``."""
    return {"command": {"name": name_of(type(command)), "options": to_dict(command)}}


def saved_command(config: Section, cls: type[T], where: str) -> T:
    """The command that made a run, ready to be given again: not to be resumed, nothing
    overwritten.

    Args:
        config: of the run. where: its ``config.json`` or folder.

    Raises:
        UserError: another command made it, or a version that did not keep commands.
    """
    section = config.get("command")
    if not isinstance(section, Mapping):
        raise UserError(
            f"{where}: was written by a version that did not keep the command, so it cannot be repeated; "
            "give the options that its sections show (mfdistill info)"
        )
    if section.get("name") != name_of(cls):
        raise UserError(
            f"{where}: was made by {section.get('name')}, not by {name_of(cls)}; repeat it with that command"
        )
    options = {**EARLIER.get(name_of(cls), {}), **(section.get("options") or {})}
    command: Any = from_dict(cls, options, f"{where}: command")
    training = replace(command.training, resume=False, overwrite=False, extend=False)
    command = replace(command, training=training)
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    # a predictor lies in the folder of what was trained with it; where it came from may be gone
    named = getattr(command, "predictor", None)
    if named is not None and config.get("predictor") and (folder / "model.safetensors").is_file():
        command = replace(command, predictor=str(folder))
    return command
