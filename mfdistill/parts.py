"""Files that are being written: their temporary names say by whom, so that those of processes that
died can be removed.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.@]+)@(?P<pid>\d+)\.(?:part|whole)", re.DOTALL)
_FORGOTTEN_S = 24 * 3600.0  # after which a file of another machine's process counts as left


def part_of(path: Path, end: str = "part") -> Path:
    """Where ``path`` is written before it takes its name: a hidden file beside it."""
    host = re.sub(r"[.@/]", "-", platform.node()) or "here"
    return path.with_name(f".{path.name}.{host}@{os.getpid()}.{end}")


def sweep(folders: Iterable[Path]) -> int:
    """Remove from ``folders`` (not from those below) what dead processes left unfinished; returns
    how many files. Those of another machine's processes count as left after a day.
    """
    removed, own = 0, part_of(Path("x")).name.split(".")[2].split("@")[0]
    for folder in folders:
        if not folder.is_dir():
            continue
        for file in folder.iterdir():
            found = _NAME.fullmatch(file.name)
            with suppress(OSError):  # gone already, or not ours to remove
                if found and (
                    not _alive(int(found["pid"]))
                    if found["host"] == own
                    else time.time() - file.stat().st_mtime > _FORGOTTEN_S
                ):
                    file.unlink()
                    removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
