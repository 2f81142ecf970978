"""``training_state/``: all that an exact continuation needs, as safetensors and JSON, swapped in
whole.

A new state is written beside the old one and renamed into place. Killed at any moment, the folder
holds a complete state under one
of three names: ``training_state``, or, between the two renames, ``training_state.new`` (complete,
since ``state.json`` is written last) and ``training_state.old``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_tensors, remove_folder, write_json, write_tensors
from mfdistill.errors import UserError
from mfdistill.students import Student

FOLDER = "training_state"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_state(
    out: Path, tensors: Mapping[str, Mapping[str, Tensor]], info: Mapping[str, Any]
) -> None:
    """Replace ``out/training_state`` by ``<name>.safetensors`` for each group of ``tensors`` and
    ``state.json`` with ``info``.

    Raises:
        UserError: the disk is full or the folder cannot be written; the state before stays.
    """
    current, new, old = (out / (FOLDER + suffix) for suffix in ("", ".new", ".old"))
    remove_folder(new)
    for name, group in tensors.items():
        write_tensors(new / f"{name}.safetensors", group)
        _sync(new / f"{name}.safetensors")
    write_json(new / "state.json", info)
    _sync(new / "state.json")
    _sync(new)
    remove_folder(old)
    if current.exists():
        os.rename(current, old)
    os.rename(new, current)
    _sync(out)
    remove_folder(old)


def _sync(path: Path) -> None:
    """Bytes to disk before a rename makes them count: a machine may die, not only a process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_state(out: Path) -> Path | None:
    """The newest complete state under ``out``, by whichever of its names; None if there is none.
    Changes nothing.
    """
    for suffix in ("", ".new", ".old"):
        folder = out / (FOLDER + suffix)
        if (folder / "state.json").is_file():
            return folder
    return None


def settle(out: Path) -> None:
    """Give the state that ``find_state`` finds its proper name and remove leftovers of a run that
    was killed while saving.
    """
    found, current = find_state(out), out / FOLDER
    if found is not None and found != current:
        remove_folder(current)
        os.rename(found, current)
    for suffix in (".new", ".old"):
        remove_folder(out / (FOLDER + suffix))


def load_info(folder: Path) -> dict[str, Any]:
    """``state.json`` of a state folder.

    Raises:
        UserError: not readable as JSON.
    """
    try:
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'state.json'}: damaged ({error}); start again with --overwrite"
        ) from error


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tensor that two modules share appears once, and what an
    adapter's student borrows from its teacher not at all.
    """
    borrowed = {
        f"{name}.{own}" if name else own
        for name, part in module.named_modules()
        if isinstance(part, Student)
        for own in part.borrowed()
    }
    found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in found.items() if name not in borrowed}


@torch.no_grad()
def restore_module(module: nn.Module, file: Path) -> None:
    """Copy the tensors of ``file`` into ``module``, bit for bit.

    Raises:
        UserError: the file is damaged or holds other tensors.
    """
    saved, live = load_tensors(file), module_tensors(module)
    for name in {**saved, **live}:
        if name not in saved or name not in live or saved[name].shape != live[name].shape:
            raise UserError(
                f"{file}: its tensor {name} does not fit this model; resume with the code and options that wrote it"
            )
        live[name].copy_(saved[name])


def optimizer_tensors(optimizer: Any, names: list[str]) -> dict[str, Tensor]:
    """State of AdamW as ``<moment>.<parameter>``; ``names`` in the order of the optimiser's
    parameters.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{moment}.{names[index]}": torch.as_tensor(state[index][moment])
        for index in state
        for moment in MOMENTS
    }


def restore_optimizer(optimizer: Any, names: list[str], file: Path) -> None:
    """Inverse of ``optimizer_tensors``."""
    saved = load_tensors(file)
    present = {index: name for index, name in enumerate(names) if f"{MOMENTS[0]}.{name}" in saved}
    state = {
        index: {moment: saved[f"{moment}.{name}"] for moment in MOMENTS}
        for index, name in present.items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Where two JSON values first differ: (dotted key, before, now), or None."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**now, **before}:
            found = first_difference(
                before.get(name), now.get(name), f"{key}.{name}" if key else name
            )
            if found is not None:
                return found
        return None
    return None if before == now else (key, before, now)
