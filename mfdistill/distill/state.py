"""``training_state/``: all that an exact continuation needs, as safetensors and JSON, swapped in
whole, with the states before it.

A new state is written as ``training_state.new`` and renamed into place; the one before it becomes
``training_state.1``, and so on. ``state.json`` is written last and holds the sha256 of the other
files and its own, so that whatever moment a process is killed at, and whatever happens to the files
later, the newest state that is whole can be told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_tensors, remove_folder, sync, write_json, write_tensors
from mfdistill.distill.moments import loaded_moment, saved_moment
from mfdistill.distill.processes import share
from mfdistill.errors import UserError
from mfdistill.integrity import check_folder, file_digest, opened, sealed
from mfdistill.plain import Plain, Section
from mfdistill.reading import read_json
from mfdistill.students.student import borrowed_by

if TYPE_CHECKING:
    from torch.optim import Optimizer

FOLDER = "training_state"
RECORD = "state.json"
_NUMBER, _NONE = (int, float), type(None)
_INFO: dict[str, tuple[type, ...]] = {
    "step": (int,), "seconds": _NUMBER, "skipped": (int,), "skipped_in_a_row": (int,), "best": (*_NUMBER, _NONE),
    "to_validate": (bool,), "window": (dict, _NONE), "finished": (bool,), "ema_updates": (int,), "scaler": (dict, _NONE),
    "identity": (dict,),
}  # fmt: skip
"""What a run's ``state.json`` holds, and of which types."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Found:
    """The newest whole state of a run."""

    folder: Path
    info: Plain
    damaged: tuple[str, ...]
    """What is wrong with newer ones."""


def save_state(
    out: Path, tensors: Mapping[str, Mapping[str, Tensor]], info: Section, keep: int = 1
) -> None:
    """Write ``<name>.safetensors`` for each group of ``tensors`` and ``state.json`` with ``info``
    as ``out/training_state``; keep ``keep`` states in all.

    Raises:
        UserError: the disk is full or the folder cannot be written; the states before stay.
    """
    new, files = out / f"{FOLDER}.new", {}
    remove_folder(new)
    for name, group in tensors.items():
        file = new / f"{name}.safetensors"
        write_tensors(file, group)
        files[file.name] = file_digest(file)
        sync(file)
    write_json(new / RECORD, sealed(info, files))
    sync(new / RECORD)
    sync(new)
    _make_room(out)
    os.rename(new, out / FOLDER)
    sync(out)
    for folder in _before(out)[max(keep, 1) - 1 :]:
        remove_folder(folder)


def _before(out: Path) -> list[Path]:
    """Earlier states, the newest first."""
    numbered = {
        int(folder.name.removeprefix(FOLDER + ".")): folder
        for folder in out.glob(FOLDER + ".*")
        if folder.name.removeprefix(FOLDER + ".").isdecimal()
    }
    return [numbered[number] for number in sorted(numbered)]


def _make_room(out: Path) -> None:
    """Free the name of the newest state: it takes the next number, as do those that it pushes."""
    if not (out / FOLDER).exists():
        return
    pushed = [out / FOLDER]
    while (target := out / f"{FOLDER}.{len(pushed)}").exists():
        pushed.append(target)
    for number, folder in reversed(list(enumerate(pushed, start=1))):
        os.rename(folder, out / f"{FOLDER}.{number}")


def folders(out: Path) -> list[Path]:
    """All states under ``out``, whole or not, the newest first."""
    return [
        folder for folder in (out / f"{FOLDER}.new", out / FOLDER, *_before(out)) if folder.is_dir()
    ]


def find_state(out: Path) -> Found | None:
    """The newest whole state under ``out``; None if there is no state. Changes nothing.

    Raises:
        UserError: states, but none of them whole.
    """
    damaged: list[str] = []
    for folder in folders(out):
        if folder.name.endswith(".new") and not (folder / RECORD).is_file():
            continue  # of a process that was killed while writing
        try:
            return Found(folder, load_info(folder, check=True), tuple(damaged))
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"{damaged[0]}; and {out} has no other state: start again with --overwrite")
    return None


def settle(out: Path, found: Path) -> None:
    """Give the state ``found`` its proper name and remove damaged newer ones and what a killed run
    left.
    """
    for folder in folders(out):
        if folder == found:
            break
        remove_folder(folder)
    if found != out / FOLDER:
        _make_room(out)  # of one that is older than a ``.new`` that was complete
        os.rename(found, out / FOLDER)
    remove_folder(out / f"{FOLDER}.new")


def load_info(folder: Path, check: bool = False) -> Plain:
    """``state.json`` of a state folder, without its checksums.

    Args:
        check: compare the other files with theirs.

    Raises:
        UserError: not readable as JSON, or not as it was written.
    """
    file = folder / RECORD
    value = read_json(file, "continue from another state")
    info, files = opened(value, file)
    if check:
        check_folder(folder, files)
    return info


def check_info(info: Section, folder: Path) -> None:
    """Raise ``UserError`` unless a run's ``state.json`` holds what a run writes into it."""
    file, remedy = folder / RECORD, "start again with --overwrite"
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
    """Parameters and buffers by name; a tensor that two modules share appears once, and what an
    adapter's student borrows from its teacher not at all.
    """
    borrowed = {
        f"{name}.{own}" if name else own
        for name, part in module.named_modules()
        for own in borrowed_by(part)
    }
    found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in found.items() if name not in borrowed}


@torch.no_grad()
def restore_module(module: nn.Module, file: Path) -> None:
    """Copy the tensors of ``file`` into ``module``, bit for bit.

    Raises:
        UserError: the file is damaged or holds other tensors.
    """
    saved, live = load_tensors(file, check=False), module_tensors(module)
    for name in {**saved, **live}:
        if name not in saved or name not in live or saved[name].shape != live[name].shape:
            raise UserError(
                f"{file}: its tensor {name} does not fit this model; resume with the code and options that wrote it"
            )
        live[name].copy_(share(saved[name], live[name]))


def optimizer_tensors(optimizer: Optimizer, names: list[str]) -> dict[str, Tensor]:
    """State of AdamW as ``<moment>.<parameter>`` (see ``moments`` for 8 bits); ``names`` in the
    order of the optimiser's parameters.
    """
    state = optimizer.state_dict()["state"]
    return {
        key: value
        for index in state
        for moment in MOMENTS
        for key, value in saved_moment(moment, names[index], state[index][moment]).items()
    }


def restore_optimizer(optimizer: Optimizer, names: list[str], file: Path) -> None:
    """Inverse of ``optimizer_tensors``."""
    saved = load_tensors(file, check=False)
    values = [value for group in optimizer.param_groups for value in group["params"]]
    state = {}
    for index, name in enumerate(names):
        if f"{MOMENTS[0]}.{name}" in saved:
            found = {moment: loaded_moment(moment, name, saved) for moment in MOMENTS}
            state[index] = {
                moment: share(value, values[index]) if value.shape == values[index].shape else value
                for moment, value in found.items()
            }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def first_difference(
    before: object, now: object, key: str = ""
) -> tuple[str, object, object] | None:
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
