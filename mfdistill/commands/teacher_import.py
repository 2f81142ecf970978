"""teacher-import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mfdistill.commands.options import read_sizes


@dataclass(frozen=True)
class TeacherImport:
    """Convert another system's checkpoint into a folder of this program, once; all commands take
    that folder.
    """

    file: Positional[str]
    """The checkpoint: F5-TTS's .safetensors or .pt, CosyVoice's flow.pt, a .ckpt of FlowSE, SGMSE
    or MeanFlowSE, ...
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
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.teachers.imported import import_teacher

    teacher = import_teacher(
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
    mel = SYSTEMS[kind].mel if kind in SYSTEMS else None
    if mel is not None and mel.reads == "text" and VOCAB not in files:
        say(f"{command.out}: no {VOCAB} beside the checkpoint; give --tts.vocab when you distil")
    return Path(command.out)
