"""Checksums: every file of a model folder or a training state has its sha256 in the JSON file
beside it, and that file has its own.

``config.json`` and ``state.json`` hold two keys for it: "files", names and digests of the files of
their folder, and "sha256", of all their other keys. One flipped bit or a missing end is an error
when such a file is loaded. Folders written before there were checksums have neither key and are
loaded as they are; "sha256": null says that a file was edited on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section

if TYPE_CHECKING:
    from torch import Tensor

FILES, SEAL = "files", "sha256"
RECORDS = ("config.json", "state.json")
"""Files that hold the digests of the others in their folder."""
FORMAT = "mfdistill/1"


def file_digest(file: Path) -> str:
    """sha256 of a file, hexadecimal.

    Raises:
        UserError: cannot be read.
    """
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error}); copy it again") from error


def sealed(value: Section, files: Mapping[str, str]) -> Plain:
    """``value`` with the digests of ``files`` and its own."""
    whole = {**{key: item for key, item in value.items() if key != SEAL}, FILES: dict(files)}
    return {**whole, SEAL: _digest(whole)}


def _digest(value: Section) -> str:
    # of what JSON gives back: tuples become lists, keys strings
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def opened(value: Section, file: Path) -> tuple[Plain, dict[str, str]]:
    """What ``sealed`` was given; no digests where ``value`` has none.

    Raises:
        UserError: ``value``, read from ``file``, is not what was written.
    """
    rest = {key: item for key, item in value.items() if key not in (FILES, SEAL)}
    files, seal = value.get(FILES), value.get(SEAL, "missing")
    if files is None and seal == "missing":
        return rest, {}
    if seal is not None and seal != _digest({**rest, FILES: files}):
        raise UserError(
            f"{file}: is not as it was written (its sha256 differs); copy it again, or, if you edited it, "
            f'say so with "{SEAL}": null in it'
        )
    whole = isinstance(files, dict) and all(isinstance(item, str) for item in files.values())
    return rest, files if whole else {}  # type: ignore[return-value]


def check_file(file: Path) -> None:
    """Compare ``file`` with the digest that is recorded beside it, if there is one.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    for name in RECORDS:
        if _differs(file, name) and _differs(file, name):  # a save may have come between the two
            raise UserError(
                f"{file}: damaged: its sha256 is not the one in {name}; copy it again, or continue or repeat the run "
                "that wrote it"
            )


def _differs(file: Path, record: str) -> bool:
    wanted = recorded(file.with_name(record)).get(file.name)
    return wanted is not None and file_digest(file) != wanted


def recorded(record: Path) -> dict[str, str]:
    """Digests by file name in a ``config.json`` or ``state.json``; none in a file that is not ours
    or not there.

    Raises:
        UserError: the record is damaged.
    """
    try:
        value = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}  # of another program, or an error where it is loaded itself
    if not isinstance(value, dict):
        return {}
    ours = record.name != "config.json" or value.get("format") == FORMAT
    return opened(value, record)[1] if ours else {}


def check_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Compare every one of ``files`` in ``folder`` with its digest.

    Raises:
        UserError: one is missing or another.
    """
    for name in files:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; copy the folder again")
        check_file(folder / name)


def check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Nothing is saved as a model that cannot be one.

    Raises:
        UserError: NaN or infinity in one of ``tensors``.
    """
    for name, value in tensors.items():
        if (value.is_floating_point() or value.is_complex()) and not bool(value.isfinite().all()):
            raise UserError(
                f"{where}: not saved, since {name} holds values that are not finite; what was saved before stays. "
                "Train with a lower --lr or a lower --grad-clip"
            )
