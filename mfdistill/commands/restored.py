"""What a folder of restored files was made with: continuing it with other settings is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mfdistill.plain import Plain, Section

FILE = ".mfdistill-restore.json"
# what may differ: where things are, how many at once, and whether there is anything to continue
_FREE = ("model", "source", "target", "batch", "overwrite")


def same_settings(options: Section, there: bool) -> Plain:
    """The settings that restored files depend on, to be kept in their folder by ``keep_settings``.

    Args:
        options: of restore. there: whether finished files are to be skipped.

    Raises:
        UserError: they were made with other settings, or by another model.
    """
    from mfdistill.errors import UserError
    from mfdistill.reading import read_json

    own = {key: value for key, value in options.items() if key not in _FREE}
    own = {"model": _digest(str(options["model"]))} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in own.items()
    }
    file = Path(str(options["target"])) / FILE
    if not there or not file.is_file():
        return own
    before = read_json(file, "remove it to go on without it")
    for key, value in own.items():
        if before.get(key) != value:
            what = (
                "another model"
                if key == "model"
                else f"--{key.replace('_', '-')} {before.get(key)}, now {value}"
            )
            raise UserError(
                f"{options['target']}: its finished files were made with {what}; add --overwrite, or name another folder"
            )
    return own


def keep_settings(target: Path, settings: Plain) -> None:
    """Write them into the folder, and remove what dead processes left in it unfinished."""
    from mfdistill.checkpoint import write_json
    from mfdistill.parts import clean_parts

    write_json(target / FILE, settings)
    clean_parts([target, *(place for place in target.rglob("*") if place.is_dir())])


def _digest(model: str) -> str:
    """Of the files that a model's folder (or the model's file) is made of."""
    from mfdistill.places import resolve

    place = resolve(model)
    names = ("config.json", "model.safetensors")
    files = [place / name for name in names] if place.is_dir() else [place]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
