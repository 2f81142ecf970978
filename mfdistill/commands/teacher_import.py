"""teacher-import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from mfdistill.errors import UserError
from mfdistill.reading import read_json


@dataclass(frozen=True)
class TeacherImport:
    """Convert another system's checkpoint into a folder of this program, once; all commands take
    that folder.
    """

    file: Positional[str]
    """The checkpoint: F5-TTS's .safetensors or .pt, CosyVoice's flow.pt, a .ckpt of Matcha-TTS,
    FlowSE, SGMSE or MeanFlowSE, ...
    """
    out: Positional[str]
    """Folder to write."""
    kind: str | None = None
    """Kind of the checkpoint, where it does not show it itself."""
    sizes: str | None = None
    """JSON file with the network's sizes, where they are not the published ones (names as in the
    system's own configuration).
    """
    vocab: str | None = None
    """F5-TTS's vocab.txt; default: beside the file."""
    overwrite: bool = False


def run(command: TeacherImport) -> Path:
    """Convert; returns the folder.

    Raises:
        UserError: as ``teachers.imported.import_teacher``.
    """
    from mfdistill.distill.logs import say
    from mfdistill.systems.f5 import VOCAB
    from mfdistill.teachers.imported import import_teacher

    teacher: Any = import_teacher(
        command.file,
        command.out,
        command.kind,
        read_sizes(command.sizes),
        command.vocab,
        command.overwrite,
    )
    params = sum(p.numel() for p in teacher.network.parameters())
    kind = teacher.config.get("kind") or (teacher.config.get("parent") or {}).get("kind") or "cfm"
    files = sorted(file.name for file in Path(command.out).iterdir())
    say(f"{command.out}: {kind}, {params / 1e6:.2f} M parameters; {', '.join(files)}")
    if kind in ("f5", "f5-unett") and VOCAB not in files:
        say(f"{command.out}: no {VOCAB} beside the checkpoint; give --tts.vocab when you distil")
    return Path(command.out)


def read_sizes(path: str | None) -> dict[str, Any] | None:
    """A JSON file of sizes; errors name it."""
    if path is None:
        return None
    try:
        return read_json(Path(path), "write an object of names and numbers")
    except UserError as error:
        raise UserError(f"--sizes {error}") from error
