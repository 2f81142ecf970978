"""export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mfdistill.errors import UserError


@dataclass(frozen=True)
class Export:
    """Write a student as another system's checkpoint, for that system's own programs."""

    checkpoint: Positional[str]
    """The student's folder, or a checkpoint file that loads as a student."""
    target: Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """File to write."""
    layout: str = "meanflowse"
    """meanflowse (.ckpt), chatterbox (s3gen_meanflow.safetensors), cosyvoice (flow.pt, of CosyVoice
    2 and 3) or f5 (.safetensors, .pt).
    """
    base: str | None = None
    """File of that system whose other tensors go along (chatterbox, cosyvoice)."""
    overwrite: bool = False
    """Replace a file that is there."""


def run(command: Export) -> Path:
    """Export as ``command`` says; returns the file.

    Raises:
        UserError: no such layout, no student, one that the layout cannot hold, or a file that is
            there already or cannot be written.
    """
    from mfdistill.distill.logs import say
    from mfdistill.students import load_student
    from mfdistill.systems.table import layouts

    known = layouts()
    if command.layout not in known:
        raise UserError(f"--layout {command.layout}: unknown; this version has: {', '.join(known)}")
    target = Path(command.target)
    if target.exists() and not command.overwrite:
        raise UserError(f"{target}: already there; --overwrite replaces it")
    known[command.layout](load_student(command.checkpoint), target, command.base)
    say(f"{target}: {command.checkpoint} in the layout of {command.layout}")
    return target
