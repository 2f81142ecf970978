"""Teachers from folders of this program and, one kind at a time, from other systems'
checkpoints.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.build import bounded
from mfdistill.networks.int8 import put_int8
from mfdistill.networks.memory import check_streams
from mfdistill.reading import reason
from mfdistill.tasks import Task, get_task, read_task_config
from mfdistill.teachers.cfm import CFMTeacher
from mfdistill.teachers.foreign import mismatches, read_foreign
from mfdistill.teachers.predictor import build_predictor, without_predictor
from mfdistill.teachers.protocol import Teacher
from mfdistill.weights import tensor_sizes

_OPTIONS = {"teacher": "--teacher", "student": "--student"}


def load_teacher(
    path: str | Path,
    kind: str | None = None,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> Teacher:
    """A teacher in evaluation mode.

    Args:
        path: a folder that ``teacher-train`` wrote, or the hub id of such a folder.
        kind: one of ``TEACHERS``; found from the file where it can be.
        config: sizes for files that do not hold their own; a folder of ours does.
        guidance_strength: s in ``v_cond + s (v_cond - v_null)``; 0 none, None the system's own
            default.
        streaming: run the network as its streaming form, frame by frame with a state; the numbers
            are the same to rounding.

    Raises:
        UserError: nothing there, an unrecognised file, an unknown kind, a checkpoint of another
            role, or an option that the kind lacks.
    """
    place = resolve(path)
    if place.is_dir() and (place / "config.json").is_file() and load_config(place).get("kind"):
        from mfdistill.teachers.imported import load_imported

        if kind not in (None, held := load_config(place)["kind"]):
            raise UserError(
                f"{place}: holds a teacher of kind {held}, not {kind}; leave the kind out"
            )
        return load_imported(place, device, config, guidance_strength, streaming)
    kind = kind or recognise(place)
    if kind is None:
        raise UserError(
            f"{place}: not recognised as a teacher; this version reads folders that teacher-train wrote, and kinds: {', '.join(TEACHERS)}"
        )
    if kind not in TEACHERS and kind in RECOGNISED:
        raise UserError(
            f"{place}: holds a student of kind {kind}, not a teacher; load it with load_student"
        )
    if kind not in TEACHERS:
        raise UserError(
            f"--kind {kind}: unknown kind of teacher; this version has: {', '.join(TEACHERS)}"
        )
    return TEACHERS[kind](place, device, config, guidance_strength, streaming)


def load_cfm(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> CFMTeacher:
    """A teacher trained here, from its folder (arguments and errors as ``load_teacher``)."""
    if config is not None:
        raise UserError(f"{path}: holds its own sizes; leave config out")
    if guidance_strength:
        raise UserError(
            f"{path}: trained without a null condition, so guidance strength {guidance_strength} has no meaning; leave it out"
        )
    network, task, saved = load_network(path, "teacher", device)
    if streaming:
        stream_by_frames(network, task, path)
    return CFMTeacher(network, task, saved, streaming)


def load_enhancement(kind: str) -> Callable[..., Teacher]:
    """The loader of FlowSE, MeanFlowSE or SGMSE checkpoints (``teachers.enhancement``)."""

    def load(*args: Any, **options: Any) -> Teacher:
        from mfdistill.teachers.enhancement import load_enhancement

        return load_enhancement(kind, *args, **options)

    return load


def _is_enhancement(kind: str) -> Callable[[Collection[str]], bool]:
    def matches(names: Collection[str]) -> bool:
        from mfdistill.teachers.enhancement import enhancement_kind

        return enhancement_kind(names) == kind

    return matches


def _load_streamfm(*args: Any, **options: Any) -> Teacher:
    from mfdistill.teachers.streamfm import load_streamfm

    return load_streamfm(*args, **options)


def _is_streamfm(names: Collection[str]) -> bool:
    from mfdistill.teachers.streamfm import is_streamfm

    return is_streamfm(names)


def _later(module: str, name: str, *first: Any) -> Callable[..., Any]:
    """A function of a module that is imported at its first call; ``first``: its leading
    arguments.
    """

    def call(*args: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*first, *args, **options)

    return call


TEACHERS: dict[str, Callable[..., Teacher]] = {
    "cfm": load_cfm,
    "meanflowse": load_enhancement("meanflowse"),
    "flowse": load_enhancement("flowse"),
    "sgmse": load_enhancement("sgmse"),
    "streamfm": _load_streamfm,
    "cosyvoice2": _later("mfdistill.teachers.cosyvoice2", "load_cosyvoice2"),
    "matcha": _later("mfdistill.teachers.matcha", "load_matcha"),
    "cosyvoice3": _later("mfdistill.teachers.cosyvoice3", "load_cosyvoice3"),
    "f5": _later("mfdistill.teachers.f5", "load_f5", "f5"),
    "f5-unett": _later("mfdistill.teachers.f5", "load_f5", "f5-unett"),
}


def recognise_tensors(names: Collection[str]) -> str | None:
    """The kind of teacher whose weights are called like ``names``; None if none is."""
    return next((kind for kind, matches in RECOGNISED.items() if matches(names)), None)


# by names of tensors, with whatever prefixes the file has, and "hyper_parameters.NAME" of a
# Lightning file; the first that matches
RECOGNISED: dict[str, Callable[[Collection[str]], bool]] = {
    "meanflowse": _is_enhancement("meanflowse"),
    "flowse": _is_enhancement("flowse"),
    "sgmse": _is_enhancement("sgmse"),
    "streamfm": _is_streamfm,
    "chatterbox": _later("mfdistill.teachers.mel_flow", "is_chatterbox"),
    "cosyvoice2": _later("mfdistill.teachers.mel_flow", "is_cosyvoice2"),
    "matcha": _later("mfdistill.teachers.mel_flow", "is_matcha"),
    "cosyvoice3": _later("mfdistill.teachers.cosyvoice3", "is_cosyvoice3"),
    "f5": _later("mfdistill.teachers.f5", "is_f5"),
    "f5-unett": _later("mfdistill.teachers.f5", "is_f5_unett"),
}


def load_network(
    path: str | Path, role: str, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Task, dict[str, Any]]:
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


def open_folder(folder: Path, role: str) -> tuple[dict[str, Any], nn.Module, Task]:
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
    values = sum(tensor_sizes(folder / "model.safetensors").values())
    task = read_task_config(config["task"], f"{where}: task")
    with bounded(values, where):
        network = build_network(section["name"], section.get("config") or {})
        put_int8(network, section.get("int8") or ())
        predictor = build_predictor(config["predictor"], where) if config.get("predictor") else None
    try:
        return config, network, get_task(task, predictor)
    # numbers that are plausible one by one and make no features together
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: task: cannot be made ({reason(error)}); restore it or train again"
        ) from error


def load_parts(
    module: nn.Module, task: Task, tensors: Mapping[str, Tensor], where: str | Path
) -> None:
    """``load_weights`` of a model and of its task's predictor."""
    predictor: Any = task.predictor
    if predictor is not None:
        tensors, own = without_predictor(tensors)
        load_weights(predictor.network, own, f"{where}: predictor")
    load_weights(module, tensors, where)


def stream_by_frames(network: nn.Module, task: Task, where: object) -> None:
    """Have the predictor run frame by frame; raises ``UserError`` unless it and the network have a
    streaming form.
    """
    check_streams(network, where)
    if (predictor := task.predictor) is not None:
        check_streams(predictor.network, f"{where}: predictor")  # type: ignore[attr-defined]
        predictor.streaming = True  # type: ignore[attr-defined]


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


def resolve(path: str | Path) -> Path:
    """A local path as it is; a hub id ("user/name") that is no local path is downloaded to the
    hub's cache.

    Where a folder "user" is here the name is taken for a mistyped local one, and the hub is not
    asked.

    Raises:
        UserError: neither there nor on the hub.
    """
    place = Path(path)
    if place.exists():
        return place.parent if place.name == "config.json" else place
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)):
        raise UserError(f"{path}: no such file or folder; check the name")
    if place.parent.is_dir():
        raise UserError(
            f"{path}: no such file or folder in {place.parent}; check the name (for a hub id, move to a folder without one "
            f"called {place.parent})"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path),
                allow_patterns=[
                    "config.json",
                    "model.safetensors",
                    "front.safetensors",
                    "vocab.txt",
                ],
            )
        )
    except (OSError, ValueError, RuntimeError) as error:  # what hub and HTTP errors derive from
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: neither a file or folder here nor a model that the hub gave ({reason})"
        ) from error


def _in_folder(place: Path) -> str | None:
    """The kind of a folder of F5-TTS or CosyVoice with one checkpoint that could be meant; None for
    others, such as ours.
    """
    named = [file for name in ("flow.pt", "flow.safetensors") if (file := place / name).is_file()]
    files = named[:1] or [
        file
        for file in place.iterdir()
        if file.suffix in (".safetensors", ".pt") and not file.name.startswith(".")
    ]
    kind = None if (place / "config.json").is_file() or len(files) != 1 else recognise(files[0])
    return kind if kind in ("cosyvoice2", "cosyvoice3", "f5", "f5-unett") else None


def recognise(place: Path) -> str | None:
    """The kind of teacher at a local path, or None.

    Raises:
        UserError: an unreadable file, or one that could be of two kinds.
    """
    if place.is_dir():
        return _in_folder(place) or "cfm"
    names = read_foreign(place).names()
    if (kind := recognise_tensors(names)) is not None:
        return kind
    if any(key.endswith("all_modules.0.W") for key in names):
        raise UserError(
            f"{place}: weights without hyper-parameters, of FlowSE or of SGMSE; say which with --kind flowse or --kind sgmse"
        )
    return None
