"""export."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mfdistill.errors import UserError

LAYOUTS: dict[str, tuple[str, str]] = {
    "meanflowse": ("mfdistill.students.export", "export_meanflowse"),
    "chatterbox": ("mfdistill.students.chatterbox", "export_chatterbox"),
    "cosyvoice": ("mfdistill.students.chatterbox", "export_cosyvoice"),
    "f5": ("mfdistill.students.f5", "export_f5"),
}
"""Module and function ``(student, path)`` or ``(student, path, base)`` of each layout."""


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

    if command.layout not in LAYOUTS:
        raise UserError(
            f"--layout {command.layout}: unknown; this version has: {', '.join(LAYOUTS)}"
        )
    target = Path(command.target)
    if target.exists() and not command.overwrite:
        raise UserError(f"{target}: already there; --overwrite replaces it")
    module, name = LAYOUTS[command.layout]
    write = getattr(importlib.import_module(module), name)
    takes_base = "base" in inspect.signature(write).parameters
    if command.base is not None and not takes_base:
        raise UserError(f"--base: layout {command.layout} takes no other tensors; leave it out")
    student = load_student(command.checkpoint)
    write(student, target, command.base) if takes_base else write(student, target)
    say(f"{target}: {command.checkpoint} in the layout of {command.layout}")
    return target
