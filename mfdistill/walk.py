"""The one way in which folders are read: the same files count everywhere, and each counts once."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mfdistill.errors import UserError

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"}
# what systems and archivers leave behind and do not hide; hidden ones (.ipynb_checkpoints,
# .Trash-1000, ._resource forks) begin with a dot
_LEFTOVERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}
_LEFTOVERS |= {"system volume information"}


def files_below(folder: Path, suffixes: Collection[str], skip: Path | None = None) -> list[Path]:
    """The files below ``folder`` whose endings are in ``suffixes`` (lower case; any case counts),
    sorted.

    Hidden files and folders are left out, and so is what systems leave behind (``__MACOSX``,
    ``@eaDir``, waste baskets). Links are followed once: a folder or file that was reached already,
    by its own name first, does not count again. ``skip``: a folder that is left out too.

    Raises:
        UserError: no such folder, or one in it that cannot be read.
    """
    found: dict[str, Path] = {}
    linked: list[Path] = []
    visited: set[str] = set() if skip is None else {os.path.realpath(skip)}
    waiting, later = [folder], []
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) not in visited:
            visited.add(real)
            for entry in _entries(place):
                path = place / entry.name
                if _is_folder(entry):
                    (later if entry.is_symlink() else waiting).append(path)
                elif path.suffix.lower() in suffixes and path.is_file():
                    if entry.is_symlink():
                        linked.append(path)
                    else:
                        found[os.path.realpath(path)] = path
        if not waiting:  # links last, so that what is here keeps its own name
            waiting, later = later[::-1], []
    for path in linked:
        found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def audio_files(folder: Path, skip: Path | None = None) -> list[Path]:
    """``files_below`` for recordings; none at all is an error."""
    files = files_below(folder, AUDIO_SUFFIXES, skip)
    if not files:
        raise UserError(
            f"{folder}: no audio files in it ({', '.join(sorted(AUDIO_SUFFIXES))}); name a folder of recordings"
        )
    return files


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in ``folder`` that ``files_below`` would go into, sorted."""
    return [folder / entry.name for entry in _entries(folder) if _is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if _counts(entry.name)), key=lambda entry: entry.name
            )
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); check its name and permissions"
        ) from error


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _LEFTOVERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links is no folder
        return False
