"""``training_state/``: all that an exact continuation needs, as safetensors and JSON, swapped in
whole.

A new state is written beside the old one and renamed into place. Killed at any moment, the folder
holds a complete state under one
of three names: ``training_state``, or, between the two renames, ``training_state.new`` (complete,
since ``state.json`` is written last) and ``training_state.old``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_tensors, remove_folder, write_json, write_tensors
from mfdistill.errors import UserError
from mfdistill.reading import read_json

FOLDER = "training_state"
_NUMBER, _NONE = (int, float), type(None)
_INFO: dict[str, tuple[type, ...]] = {
    "step": (int,), "seconds": _NUMBER, "skipped": (int,), "skipped_in_a_row": (int,), "best": (*_NUMBER, _NONE),
    "to_validate": (bool,), "window": (dict, _NONE), "finished": (bool,), "ema_updates": (int,), "scaler": (dict, _NONE),
    "identity": (dict,),
}  # fmt: skip
"""What ``state.json`` holds, and of which types."""
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
    return read_json(folder / "state.json", "start again with --overwrite")


def check_info(info: Mapping[str, Any], folder: Path) -> None:
    """Raise ``UserError`` unless a run's ``state.json`` holds what a run writes into it."""
    file, remedy = folder / "state.json", "start again with --overwrite"
    for name, kinds in _INFO.items():
        value = info.get(name, "missing")
        # a negative number of steps, or one that is none, is as wrong as a text
        if (
            type(value) not in kinds
            or (type(value) in (int, float) and not 0 <= value < 1e15)
            and name != "best"
        ):
            raise UserError(f"{file}: {name} is {value!r:.40}; {remedy}")
    for name, entry in (info["window"] or {}).items():
        if not (isinstance(entry, list) and [*map(type, entry)] in ([float, int], [int, int])):
            raise UserError(f"{file}: window.{name} is {entry!r:.40}; {remedy}")


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tensor that two modules share appears once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


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
