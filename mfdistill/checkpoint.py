"""Checkpoint folders: ``model.safetensors`` + ``config.json``, written beside and renamed, so a
dying run damages nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError
from mfdistill.parts import part_of
from mfdistill.reading import disk_remedy, read_json, reason

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "mfdistill/1"
_NUMBER = (int, float)
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "network", "objective", "training", "data", "valid", "predictor", "schedules"), dict),
    "task.stft": dict, "task.mel": dict, "network.name": str, "network.config": dict, "network.int8": list,
    "predictor.network": dict, "training.step": int, "training.hours": _NUMBER, "role": str, "kind": str,
    "schedule": (list, int), "interval": str, "guidance_input": _NUMBER, "parent": (dict, str), "data.source": str,
}  # fmt: skip
"""Of what a ``config.json`` holds, where it is there; readers check what is inside."""


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by way of a temporary name in the same folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; whatever stood at ``path`` is
            untouched.
    """
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """The same for ``data``."""
    _replace(path, lambda part: part.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors to ``path`` by way of a temporary name (errors as ``write_text``)."""
    from safetensors.torch import save_file

    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    _replace(path, lambda part: save_file(whole, str(part), dict(metadata or {"format": "pt"})))


def _replace(path: Path, write: Any) -> None:
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except Exception as error:
        if part.is_file():  # unlink would fail on its own where the folder is a file
            part.unlink()
        if isinstance(error, OSError) or "I/O error" in str(error) or "No space" in str(error):
            raise UserError(
                f"{path}: cannot be written ({reason(error)}); {disk_remedy(error)}"
            ) from error
        raise


def save_folder(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Save a model folder; an existing one at ``path`` keeps its other files (logs,
    ``training_state``).
    """
    folder = Path(path)
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {"format": FORMAT, **config})


def load_config(path: str | Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        UserError: no such folder or file, not JSON, or not a folder of this program.
    """
    folder = Path(path)
    file = folder / "config.json" if folder.is_dir() else folder
    if (folder / "training_state").is_dir() and not file.is_file():
        raise UserError(
            f"{path}: this run has not saved its model yet; it does so every --save-every updates "
            "and when it is stopped"
        )
    if not file.is_file():
        raise UserError(
            f"{path}: no config.json there; name a folder that teacher-train or student-distill wrote"
        )
    config = read_json(file, "restore it or train again")
    if config.get("format") != FORMAT:
        raise UserError(f'{file}: not written by this program (no "format": "{FORMAT}")')
    for path, kinds in _TYPES.items():
        section, _, name = path.rpartition(".")
        value = (config.get(section) or {} if section else config).get(name)
        # true is an int to Python
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise UserError(f"{file}: {path} is {value!r:.60}; restore it or train again")
    return config


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a model folder's ``model.safetensors``.

    Raises:
        UserError: the file is missing, truncated or no safetensors file.
    """
    from safetensors.torch import load_file

    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        return load_file(str(file))
    # safetensors' own error is one of these; torch adds its own for types that it does not know
    except Exception as error:
        raise UserError(
            f"{file}: damaged or no safetensors file ({reason(error)}); copy or train it again"
        ) from error


def remove_folder(path: Path) -> None:
    """Delete a folder if it is there."""
    if path.exists():
        shutil.rmtree(path)
