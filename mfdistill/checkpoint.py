"""Checkpoint folders: ``model.safetensors`` + ``config.json``, written beside and renamed, so a
dying run damages nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError
from mfdistill.integrity import (
    FORMAT,
    check_file,
    check_finite,
    file_digest,
    opened,
    recorded,
    sealed,
)
from mfdistill.parts import part_of
from mfdistill.plain import Plain, Section
from mfdistill.reading import disk_remedy, read_json, reason

if TYPE_CHECKING:
    from torch import Tensor

Write = Callable[[Path], Any]
_NUMBER = (int, float)
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "network", "objective", "training", "data", "valid", "predictor", "schedules"), dict),
    "task.stft": dict, "task.mel": dict, "network.name": str, "network.config": dict, "network.int8": list,
    "predictor.network": dict, "training.step": int, "training.hours": _NUMBER, "role": str, "kind": str,
    "schedule": (list, int), "interval": str, "guidance_input": _NUMBER, "guidance_strength": _NUMBER,
    "parent": (dict, str), "prior": dict, "data.source": str, "command": dict, "command.name": str,
    "command.options": dict,
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


def write_json(path: Path, value: object) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, _json(value))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors to ``path`` by way of a temporary name (errors as ``write_text``)."""
    _replace(path, _saver(tensors, metadata))


def _saver(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Write:
    from safetensors.torch import save_file

    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    return lambda part: save_file(whole, str(part), dict(metadata or {"format": "pt"}))


def _replace(path: Path, write: Write) -> None:
    part = _written(path, write)
    try:
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _written(path: Path, write: Write) -> Path:
    """The file under its temporary name, with the permissions of the user's umask (safetensors
    makes 0600).
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        write(part)
        part.chmod(mode)
    except Exception as error:
        if part.is_file():  # unlink would fail on its own where the folder is a file
            part.unlink()
        told = ("I/O error", "No space", "failed writing")
        if isinstance(error, OSError) or any(text in str(error) for text in told):
            raise _unwritable(path, error) from error
        raise
    return part


def _unwritable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({reason(error)}); {disk_remedy(error)}")


def sync(path: Path) -> None:
    """Bytes to disk before a rename makes them count: a machine may die, not only a process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_folder(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    config: Section,
    name: str = "model.safetensors",
) -> None:
    """Save a model folder, its weights as ``name``; an existing one at ``path`` keeps its others
    (logs, ``training_state``).

    Raises:
        UserError: a tensor that is not finite, a full disk, a folder that cannot be written;
            whatever stood at ``path`` is untouched.
    """
    folder = Path(path)
    model, file = folder / name, folder / "config.json"
    check_finite(tensors, folder)
    part = _written(model, _saver(tensors))
    whole = sealed({"format": FORMAT, **config}, {model.name: file_digest(part)})
    try:
        # the two renames follow each other at once: a model without its config is an error
        other = _written(file, lambda other: other.write_text(_json(whole), encoding="utf-8"))
        sync(part)
        sync(other)
        os.replace(part, model)
        os.replace(other, file)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        part.unlink(missing_ok=True)
        part_of(file).unlink(missing_ok=True)


def write_config(folder: Path, config: Section) -> None:
    """Replace ``config.json`` of a folder that has one; the digests in it stay."""
    file = folder / "config.json"
    write_json(file, sealed({"format": FORMAT, **config}, recorded(file)))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def load_config(path: str | Path) -> Plain:
    """Read ``config.json`` of a model folder, without its checksums.

    Raises:
        UserError: no such folder or file, not JSON, not a folder of this program, or not as it was
            written.
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
    searched = [(f"schedules.{k}", times) for k, times in (config.get("schedules") or {}).items()]
    for name, times in [("schedule", config.get("schedule")), *searched]:
        numbers = times if isinstance(times, list) else [times] if name == "schedule" else [""]
        steps = name.rpartition(".")[2]
        whole = all(type(t) in _NUMBER for t in numbers) and (name == steps or steps.isdecimal())
        if times is not None and not whole:
            raise UserError(
                f"{file}: {name} is {times!r:.60}, not a list of times; restore it or train again"
            )
    return opened(config, file)[0]


def load_tensors(path: str | Path, check: bool = True) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a model folder's ``model.safetensors``.

    Args:
        check: compare the file with its checksum, where one is recorded beside it.

    Raises:
        UserError: the file is missing, damaged or no safetensors file.
    """
    from safetensors.torch import load_file

    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if check:
        check_file(file)
    try:
        return load_file(str(file))
    # safetensors' own error is one of these; torch adds its own for types that it does not know
    except Exception as error:
        raise UserError(
            f"{file}: damaged or no safetensors file ({reason(error)}); copy or train it again"
        ) from error


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values; the device does not matter."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def remove_folder(path: Path) -> None:
    """Delete a folder if it is there."""
    if path.exists():
        shutil.rmtree(path)


def write_pickle(path: Path, value: object) -> None:
    """``torch.save`` for other programs, by way of a temporary name (errors as ``write_text``)."""
    import torch

    _replace(path, lambda part: torch.save(value, part))
