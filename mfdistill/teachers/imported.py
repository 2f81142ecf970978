"""Other systems' teachers as folders of ours: converted once, found with their sizes, front end and
vocabulary ever after.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfdistill.checkpoint import resolve, save_folder, write_tensors, write_text
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks.predictor import with_predictor
from mfdistill.systems.base import Content, no_files
from mfdistill.systems.table import SYSTEMS
from mfdistill.teachers.field import Field
from mfdistill.teachers.load import load_teacher


def import_teacher(
    file: str | Path,
    out: str | Path,
    kind: str | None = None,
    config: Mapping[str, Any] | None = None,
    vocab: str | Path | None = None,
    overwrite: bool = False,
) -> Field:
    """Write another system's teacher as a folder: ``model.safetensors``, ``config.json``, and what
    travels along (``System.files``: CosyVoice's front end, F5-TTS's vocabulary) where it is there.

    Args:
        file, kind, config: as ``load_teacher``. vocab: default ``vocab.txt`` beside the file.

    Returns: the teacher that was written.
    Raises:
        UserError: as ``load_teacher``; a folder of ours already; a kind that has no folder form;
            ``out`` in use; a vocabulary of another size.
    """
    place, target = resolve(file), Path(out)
    if place.is_dir() and (place / "config.json").is_file():
        raise UserError(f"{file}: is a folder of this program already; use it as it is")
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise UserError(f"{out}: is there already; name another folder or add --overwrite")
    teacher = load_teacher(place, kind, config=config)
    saved, task = dict(teacher.config), teacher.task
    if not saved.get("network"):
        raise UserError(
            f"{file}: its network has no description, so a folder cannot hold it; name the file itself where it is used"
        )
    saved["task"] = None if task is None else to_dict(task.config)
    if saved.get("predictor") and task is None:
        raise UserError(f"{file}: does not say its prior's spread; give it with --sizes (sigma_y)")
    files = SYSTEMS[saved["kind"]].files if saved.get("kind") in SYSTEMS else no_files
    along = files(place, teacher.network, None if vocab is None else Path(vocab))
    save_folder(target, with_predictor(teacher.network.state_dict(), task), saved)
    write_along(target, along)
    return teacher


def write_along(folder: Path, files: Mapping[str, Content]) -> None:
    """Write what travels along in a folder."""
    for name, content in files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            write_tensors(folder / name, content)
