"""merge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Merge:
    """Join an adapter (student-distill --lora.rank) with its teacher into a full student, which
    needs the teacher no more.
    """

    student: Positional[Annotated[str, tyro.conf.arg(metavar="STUDENT")]]
    """The adapter's folder."""
    out: Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Folder to write."""
    teacher: str | None = None
    """The teacher, where it has moved; it must be the one that the adapter was trained on."""
    overwrite: bool = False
    """Replace a student that is there."""


def run(command: Merge) -> Path:
    """Merge as ``command`` says; returns the folder.

    Raises:
        UserError: no adapter, a teacher that is not there or another one, a folder in use.
    """
    from mfdistill.checkpoint import load_config, save_folder
    from mfdistill.companions import copy_companions, named_companions
    from mfdistill.distill.logs import say
    from mfdistill.errors import UserError
    from mfdistill.networks.predictor import with_predictor
    from mfdistill.places import resolve
    from mfdistill.students.adapter import load_adapter

    folder, out = resolve(command.student), Path(command.out)
    config = load_config(folder)
    if not config.get("adapter"):
        raise UserError(
            f"{command.student}: is no adapter (student-distill --lora.rank), so there is nothing to "
            "merge"
        )
    if out.exists() and any(out.iterdir()) and not command.overwrite:
        raise UserError(f"{out}: already holds files; --overwrite replaces them, or name another")
    student = load_adapter(folder, config, teacher=command.teacher)
    assert student.task is not None
    whole = {key: value for key, value in config.items() if key != "adapter"}
    copy_companions(folder, out, named_companions(folder))
    save_folder(out, with_predictor(student.state_dict(), student.task), whole)
    say(f"{out}: {command.student} as a full student")
    return out
