"""Files that a model cannot be used without, beside its weights: F5-TTS's vocabulary, CosyVoice's
front end. ``config.json`` names them, with their SHA-256, under "companions".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from mfdistill.checkpoint import write_bytes
from mfdistill.errors import UserError
from mfdistill.parts import part_of

SECTION = "companions"


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """The section of ``config.json``: names and the SHA-256 of what they hold."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def write_companions(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write those that are not there as they should be.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    for name, data in files.items():
        file = folder / name
        if not file.is_file() or _sha256(file) != hashlib.sha256(data).hexdigest():
            write_bytes(file, data)


def copy_companions(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy files of one folder of a model to another, those that are not there already.

    Args:
        names: with their checksums (``checksums``).

    Raises:
        UserError: one is missing, or the folder cannot be written.
    """
    for name, wanted in names.items():
        if (target / name).is_file() and _sha256(target / name) == wanted:
            continue
        part = part_of(target / name)
        try:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, part)
            part.replace(target / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f"{target / name}: cannot be copied from {source} ({error}); free some space or "
                "name another folder"
            ) from error


def named_companions(folder: Path) -> dict[str, str]:
    """Names and checksums in ``folder/config.json``; empty where there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = config.get(SECTION) if isinstance(config, dict) else None
    # a name that leads elsewhere is none of ours: such files are read, copied and removed
    return {
        name: wanted
        for name, wanted in (found if isinstance(found, dict) else {}).items()
        if name not in ("", "..") and Path(name).name == name and isinstance(wanted, str)
    }


def companion(folder: Path, name: str) -> Path | None:
    """The file ``name`` of a model's folder; None where it has none. A folder of an older version
    names none, and its files are taken as they are.

    Raises:
        UserError: ``config.json`` names it, and it is missing or another one.
    """
    file, wanted = folder / name, named_companions(folder).get(name)
    if wanted is None:
        return file if file.is_file() else None
    if not file.is_file():
        raise UserError(
            f"{file}: missing, though config.json names it; copy the folder whole, or put it there"
        )
    if _sha256(file) != wanted:
        raise UserError(
            f"{file}: is not the one that this model was made with (config.json has its "
            "checksum); copy the folder again"
        )
    return file


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
