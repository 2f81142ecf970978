"""Files that are being written: their temporary names say by whom, so that those of processes that
died can be removed.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_HOST = re.sub(r"[^A-Za-z0-9_]", "_", platform.node())
_PART = re.compile(rf"\..+\.{_HOST}-(\d+)\.(part|whole)", re.DOTALL)


_cleaned: set[Path] = set()


def part_of(path: Path, end: str = "part") -> Path:
    """The temporary name of ``path`` while this process writes it. The first one in a folder
    removes what processes that died have left there.
    """
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        clean_parts([path.parent])
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.{end}")


def clean_parts(folders: Iterable[Path]) -> None:
    """Remove what processes of this machine that are no more left half-written in ``folders``."""
    for file in (file for folder in folders for file in folder.glob(".*") if folder.is_dir()):
        named = _PART.fullmatch(file.name)
        if named and not _alive(int(named[1])):
            with suppress(OSError):  # gone already, or not ours to remove
                file.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
