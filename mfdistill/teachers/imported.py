"""Other systems' teachers as folders of ours: converted once, found with their sizes, front end and
vocabulary ever after.
"""

from __future__ import annotations

import os
from pathlib import Path

from mfdistill.checkpoint import load_config, remove_folder, save_folder
from mfdistill.companions import SECTION, checksums, write_companions
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks.predictor import with_predictor
from mfdistill.places import resolve
from mfdistill.plain import Section
from mfdistill.systems.base import no_files
from mfdistill.systems.table import SYSTEMS
from mfdistill.teachers.field import Field
from mfdistill.teachers.load import load_teacher


def import_teacher(
    file: str | Path,
    out: str | Path,
    kind: str | None = None,
    config: Section | None = None,
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
            ``out`` in use; a vocabulary of another size. ``out`` is then as it was.
    """
    place, target = resolve(file), Path(out).absolute()
    if place.is_dir() and (place / "config.json").is_file():
        raise UserError(f"{file}: is a folder of this program already; use it as it is")
    _check_target(target, overwrite)
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
    companions = files(place, teacher.network, None if vocab is None else Path(vocab))
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        write_companions(part, companions)
        saved |= {SECTION: checksums(companions)} if companions else {}
        save_folder(part, with_predictor(teacher.network.state_dict(), task), saved)
        if target.exists():  # empty, or what --overwrite replaces
            os.replace(target, old)
        os.replace(part, target)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error}); free some space or name another folder"
        ) from error
    finally:
        remove_folder(part)
        remove_folder(old)
    return teacher


def _check_target(target: Path, overwrite: bool) -> None:
    """Raise ``UserError`` where ``target`` is in use by something that must not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{target}: is there already; name another folder or add --overwrite")
    imported = (
        (target / "config.json").is_file()
        and load_config(target).get("role") == "teacher"
        and not (target / "log.jsonl").exists()
    )
    if not imported:
        raise UserError(
            f"{target}: is no folder that teacher-import wrote, so --overwrite does not remove it; "
            "name another folder"
        )
