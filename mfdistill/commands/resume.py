"""resume."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from mfdistill.errors import UserError


@dataclass(frozen=True)
class Resume:
    """Continue a run from its folder alone: after Ctrl-C, a kill or a power cut exactly where it
    was saved, or, finished, for more updates.
    """

    run: Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    steps: int | None = None
    """Optimiser updates of the whole run; more than it had extend it, along a learning-rate curve
    that is stretched to them.
    """


def run(command: Resume) -> Any:
    """Continue; returns what the run's own command returns.

    Raises:
        UserError: no run there, one that does not say its command, or fewer updates than it had.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.commands.saved import name_of, saved_command
    from mfdistill.commands.table import TRAINED
    from mfdistill.distill.state import find_state

    folder = Path(command.run)
    folder = folder.parent if folder.name == "config.json" else folder
    if not folder.is_dir():
        raise UserError(f"{command.run}: no such folder; name the folder of a run")
    found = find_state(folder)
    if found is None:
        raise UserError(
            f"{folder}: has no training_state, so there is nothing to continue; start from it with --init or --teacher"
        )
    # before the first save of the model the state alone says what the run is
    config = load_config(folder) if (folder / "config.json").is_file() else found.info
    name = (config.get("command") or {}).get("name")
    cls = next((cls for cls in TRAINED if name_of(cls) == name), TRAINED[0])
    again: Any = saved_command(config, cls, str(folder))
    training = replace(again.training, out=str(folder), resume=True)
    if command.steps is not None:
        before = int(found.info["identity"]["training"]["steps"])
        if command.steps < before:
            raise UserError(
                f"--steps {command.steps}: the run was started with {before}; give more, or leave it out"
            )
        training = replace(training, steps=command.steps, epochs=None, extend=True)
    unsaved = [item.name for item in fields(again) if item.name == "config"]
    again = replace(again, training=training, **dict.fromkeys(unsaved))
    return importlib.import_module(cls.__module__).run(again)
