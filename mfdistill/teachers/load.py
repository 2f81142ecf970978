"""Teachers from folders of this program and from other systems' checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.build import bounded
from mfdistill.places import resolve
from mfdistill.plain import Section
from mfdistill.systems.base import Opened, own_facts
from mfdistill.systems.table import SYSTEMS, recognise, telling_what_it_is
from mfdistill.teachers.field import Field
from mfdistill.teachers.folders import load_network, load_weights, open_task, stream_by_frames
from mfdistill.weights import tensor_sizes


def teacher_kinds() -> list[str]:
    """The kinds of teacher that ``load_teacher`` reads; "cfm" is trained here."""
    read = [name for name, system in SYSTEMS.items() if system.read_teacher is not None]
    return ["cfm", *read]


def load_teacher(
    path: str | Path,
    kind: str | None = None,
    device: torch.device | str = "cpu",
    config: Section | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> Field:
    """A teacher in evaluation mode.

    Args:
        path: a folder that ``teacher-train`` or ``teacher-import`` wrote, the hub id of such a
            folder, or another system's checkpoint.
        kind: one of ``teacher_kinds()``; found from the file where it can be.
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
    ours = place.is_dir() and (place / "config.json").is_file()
    held = (load_config(place).get("kind") or "cfm") if ours else None
    if held not in (None, "cfm", kind) and kind is not None:
        raise UserError(f"{place}: holds a teacher of kind {held}, not {kind}; leave the kind out")
    kind = kind or held or recognise(place) or ("cfm" if place.is_dir() else None)
    if kind is None:
        raise UserError(
            f"{place}: not recognised as a teacher; this version reads folders that teacher-train wrote, "
            f"and kinds: {', '.join(teacher_kinds())}"
        )
    if kind not in teacher_kinds() and kind in SYSTEMS:
        raise UserError(
            f"{place}: holds a student of kind {kind}, not a teacher; load it with load_student"
        )
    if kind not in teacher_kinds():
        raise UserError(
            f"--kind {kind}: unknown kind of teacher; this version has: {', '.join(teacher_kinds())}"
        )
    if held is not None or kind == "cfm":
        opened = _open_folder(place, kind, config, streaming)
    else:
        with telling_what_it_is():
            opened = SYSTEMS[kind].read_teacher(place, config, streaming)  # type: ignore[misc]
    strength = opened.guidance_strength if guidance_strength is None else float(guidance_strength)
    if strength and opened.facts.null is None:
        raise UserError(
            f"{place}: trained without a null condition, so guidance strength {strength} has no meaning; leave it out"
        )
    saved = opened.config
    if "guidance_strength" in saved:
        saved = {**saved, "guidance_strength": strength}
    by_frames = streaming and opened.facts.streams == "frames"
    return Field(
        opened.network,
        opened.task,
        saved,
        by_frames,
        facts=opened.facts,
        guidance_strength=strength,
    ).to(device)


def _open_folder(place: Path, kind: str, config: Section | None, streaming: bool) -> Opened:
    """A folder that ``teacher-train`` wrote ("cfm"), or ``teacher-import``."""
    if config is not None:
        raise UserError(f"{place}: holds its own sizes; leave config out")
    if kind == "cfm":
        network, task, saved = load_network(place, "teacher")
        if streaming:
            stream_by_frames(network, task, place)
        return Opened(network, task, own_facts(network), saved)
    saved = load_config(place)
    section, where = saved.get("network") or {}, f"{place}/config.json"
    if "name" not in section or not isinstance(saved.get("task"), Mapping):
        raise UserError(f"{where}: needs the sections 'network' and 'task'; import it again")
    with bounded(sum(tensor_sizes(place / "model.safetensors").values()), where):
        network = build_network(section["name"], section.get("config") or {})
    load_weights(network, load_tensors(place), place)
    facts = SYSTEMS[kind].facts(network)
    if streaming and facts.streams is None:
        raise UserError(
            f"{place}: kind {kind} with these sizes has no streaming form ({facts.no_stream}); leave streaming out"
        )
    if streaming:
        network.streaming = True  # type: ignore[assignment]
    # the prior stood in a section of its own before it belonged to the task
    task = open_task({**saved["task"], **(saved.get("prior") or {})}, f"{where}: task")
    return Opened(network, task, facts, saved, float(saved.get("guidance_strength") or 0.0))
