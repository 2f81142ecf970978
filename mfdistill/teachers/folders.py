"""Model folders of this program: config, network, task and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.build import bounded
from mfdistill.networks.int8 import put_int8
from mfdistill.networks.memory import check_streams
from mfdistill.networks.predictor import build_predictor, without_predictor
from mfdistill.places import resolve
from mfdistill.plain import Plain, Section
from mfdistill.reading import reason
from mfdistill.systems.files import mismatches
from mfdistill.systems.table import SYSTEMS
from mfdistill.tasks import Predictor, Task, get_task, read_task_config
from mfdistill.weights import tensor_sizes

_OPTIONS = {"teacher": "--teacher", "student": "--student"}


def load_network(
    path: str | Path, role: str, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Task, Plain]:
    """The plain network of a model folder (role "teacher" or "regression"), in evaluation mode,
    with its task and its whole config.

    Raises:
        UserError: not a folder of ours, another role, a damaged config, or weights that do not fit
            the config.
    """
    folder = resolve(path)
    config, network, task = open_folder(folder, role)
    load_parts(network, task, load_tensors(folder), folder)
    return network.to(device).eval(), task, config


def open_folder(
    folder: Path, role: str, given: nn.Module | None = None
) -> tuple[Plain, nn.Module, Task]:
    """Config, freshly built network (random weights) and task of a model folder; errors as
    ``load_network``.
    """
    config = load_config(folder)
    if config.get("role") != role:
        found = config.get("role")
        hint = f"; it belongs to {_OPTIONS[found]}" if found in _OPTIONS else ""
        raise UserError(f"{folder}: holds a {found}, not a {role}{hint}")
    where = f"{folder}/config.json"
    section = config.get("network")
    if (
        not isinstance(section, Mapping)
        or "name" not in section
        or not isinstance(config.get("task"), Mapping)
    ):
        raise UserError(
            f"{where}: needs the sections 'task' and 'network' with 'name' and 'config'; restore it or train again"
        )
    if (section["name"] == "own") != (given is not None):
        what = "your own network: give it, load_student(..., network=NETWORK)"
        raise UserError(
            f"{folder}: is a student of {what if given is None else 'a network of this program: leave network out'}"
        )
    with bounded(sum(tensor_sizes(folder / "model.safetensors").values()), where):
        network = given or build_network(section["name"], section.get("config") or {})
        put_int8(network, section.get("int8") or ())
        predictor = build_predictor(config["predictor"], where) if config.get("predictor") else None
    task = {**config["task"]}
    if isinstance(name := task.get("vocoder"), str):
        task["vocoder"] = vocoder_place(folder, name)
    return config, network, open_task(task, f"{where}: task", predictor)


def vocoder_place(folder: Path, vocoder: str) -> str:
    """The vocoder's folder: from where the program runs, or else from the model's own folder, so
    that the two can travel together. What is trained from the model names it so too.
    """
    own = folder / vocoder
    return os.path.normpath(own) if not Path(vocoder).exists() and own.is_dir() else vocoder


def open_task(section: Section, where: str, predictor: Predictor | None = None) -> Task:
    """The task of the section "task" of a ``config.json``: one of ours, or a system's.

    Raises:
        UserError: no such task, an unknown field or a wrong value; ``where`` names the section.
    """
    system = SYSTEMS.get(str(section.get("name")))
    try:
        if system is not None and system.task is not None:
            return system.task(section, where)
        return get_task(read_task_config(section, where), predictor)
    # numbers that are plausible one by one and make no features together
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: cannot be made ({reason(error)}); restore it or train again"
        ) from error


def load_parts(
    module: nn.Module, task: Task, tensors: Mapping[str, Tensor], where: str | Path
) -> None:
    """``load_weights`` of a model and of its task's predictor."""
    if task.predictor is not None:
        tensors, own = without_predictor(tensors)
        load_weights(task.predictor.network, own, f"{where}: predictor")
    load_weights(module, tensors, where)


def stream_by_frames(network: nn.Module, task: Task, where: object) -> None:
    """Have the predictor run frame by frame; raises ``UserError`` unless it and the network have a
    streaming form.
    """
    check_streams(network, where)
    if task.predictor is not None:
        check_streams(task.predictor.network, f"{where}: predictor")
        task.predictor.streaming = True


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """``load_state_dict`` whose mismatch is one line.

    Raises:
        UserError: names or shapes differ; the first of them is named.
    """
    wrong = mismatches(module.state_dict(), tensors)
    if wrong:
        raise UserError(
            f"{where}: weights do not fit config.json: {wrong[0]} ({len(wrong)} such); restore the folder or train again"
        )
    module.load_state_dict(dict(tensors))
