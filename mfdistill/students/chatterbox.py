"""Students of CosyVoice 2's flow in the layouts of programs that serve it: Chatterbox-Turbo's
``s3gen_meanflow``, and ``flow.pt`` + mixer.

One tensor is added to the teacher's: ``decoder.estimator.time_embed_mixer.weight`` (d, 2 d),
applied after the time network; its first d columns multiply the current time's embedding, the
others the destination's. Without it the file is the teacher's kind again. A program that serves it
passes r, skips guidance and does not warp the grid of times.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfdistill.checkpoint import write_tensors
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.cosyvoice3 import CosyVoice3Network
from mfdistill.networks.dit_config import CosyVoice3Config
from mfdistill.parts import part_of
from mfdistill.students.student import Student
from mfdistill.tasks.foreign import foreign_task
from mfdistill.teachers.cosyvoice2 import build_unet, split_config
from mfdistill.teachers.foreign import read_foreign, walk_tensors
from mfdistill.teachers.mel_flow import (
    ESTIMATOR,
    MIXER,
    check_estimator,
    checkpoint_file,
    estimator_tensors,
    flow_tensors,
    looks_like,
)

_STEPS = 2  # of a uniform grid, what Chatterbox-Turbo runs with


def load_chatterbox(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student from a flow with a mixer of two times: ``s3gen_meanflow.safetensors``, or a
    CosyVoice 2 ``flow.pt`` with that key.

    Args:
        config: the estimator's sizes where they are not the published ones (``MatchaUNetConfig``),
            as for the teacher.
        streaming: for a student that was distilled so; Chatterbox's own have no chunks, so
            ``static_chunk_size`` must be in config.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or no chunks to stream
            in.
    """
    sizes, options = split_config(config, path, static_chunk_size=0)
    if not options.get("meanflow", True):
        raise UserError(
            f"{path}: meanflow=False is a teacher; load it with load_teacher(kind='cosyvoice2')"
        )
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file))
    if MIXER not in tensors:
        raise UserError(
            f"{file}: lacks {ESTIMATOR}{MIXER}, so it is no student; {looks_like([ESTIMATOR + name for name in tensors])}"
        )
    network = build_unet(sizes, streaming, file)
    parent = {"file": str(file), "kind": "chatterbox"}
    task = foreign_task("cosyvoice2", sizes.out_channels)
    student = Student(
        network,
        network.time_embedding_name,
        task,
        _STEPS,
        {"name": "matcha_unet", "config": to_dict(sizes)},
        parent,
    )
    _load_official(student, tensors, file, "chatterbox")
    return student.to(device).eval()


def load_cosyvoice3_student(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student from a CosyVoice 3 ``flow.pt`` with a mixer of two times (``export_cosyvoice``);
    its one step is from 0 to 1.

    Args:
        config: the estimator's sizes where they are not the published ones (``CosyVoice3Config``).
            streaming: as for the teacher.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or no chunks to stream
            in.
    """
    sizes = from_dict(CosyVoice3Config, config or {}, f"{path}: config")
    if streaming and not sizes.static_chunk_size:
        raise UserError(
            f"{path}: static_chunk_size 0 has no chunks to stream in; give the frames per chunk in config"
        )
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file))
    if MIXER not in tensors:
        raise UserError(
            f"{file}: lacks {ESTIMATOR}{MIXER}, so it is no student; {looks_like([ESTIMATOR + name for name in tensors])}"
        )
    network = CosyVoice3Network(sizes)
    network.streaming = streaming
    description, task = (
        {"name": "cosyvoice3", "config": to_dict(sizes)},
        foreign_task("cosyvoice3", sizes.mel_dim),
    )
    student = Student(
        network,
        network.time_embedding_name,
        task,
        1,
        description,
        {"file": str(file), "kind": "cosyvoice3"},
    )
    _load_official(student, tensors, file, "cosyvoice3")
    return student.to(device).eval()


def _load_official(student: Student, tensors: Mapping[str, Tensor], file: Path, kind: str) -> None:
    estimator = student.network.get_submodule("estimator")
    names, own = _official_names(student), estimator.state_dict()
    check_estimator({theirs: own[ours] for ours, theirs in names.items()}, tensors, file, kind)
    estimator.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()})


def estimator_state(student: Student) -> dict[str, Tensor]:
    """The tensors of a student's estimator by the originals' names, with the mixer, for any network
    that holds one as ``estimator``.

    Raises:
        UserError: a network without official names, or one whose second time is embedded in another
            way.
    """
    own = student.network.get_submodule("estimator").state_dict()
    return {theirs: own[ours] for ours, theirs in _official_names(student).items()}


def export_chatterbox(student: Student, path: str | Path, base: str | Path | None = None) -> None:
    """Write a student as ``s3gen_meanflow.safetensors``.

    Args:
        base: a file whose other tensors go along: an s3gen file (kept whole), or a CosyVoice 2 flow
            (its front end, under ``flow.``).

    Raises:
        UserError: no student of the causal U-Net, an unreadable base, or a base without a flow.
    """
    if not hasattr(student.network, "config") or not getattr(
        student.network.config, "causal", False
    ):
        raise UserError(
            f"{path}: Chatterbox's layout is for students of the causal U-Net (kind cosyvoice2), not for this network"
        )
    others: dict[str, Tensor] = {}
    if base is not None:
        found = dict(walk_tensors(read_foreign(base).values))
        whole = any(name.startswith(f"flow.{ESTIMATOR}") for name in found)
        others = (
            found
            if whole
            else {f"flow.{name}": value for name, value in flow_tensors(Path(base)).items()}
        )
    state = {f"flow.{ESTIMATOR}{name}": value for name, value in estimator_state(student).items()}
    write_tensors(Path(path), {**_without_estimator(others), **state})


def export_cosyvoice(student: Student, path: str | Path, base: str | Path | None = None) -> None:
    """Write a student as CosyVoice's ``flow.pt`` (or ``.safetensors``, by the name) with the
    mixer's key.

    Args:
        base: the teacher's ``flow.pt`` or an s3gen file; its front end goes along.

    Raises:
        UserError: a network without official names, an unreadable base, or a disk that is full.
    """
    others = {} if base is None else flow_tensors(checkpoint_file(Path(base)))
    tensors = {
        **_without_estimator(others),
        **{ESTIMATOR + name: value for name, value in estimator_state(student).items()},
    }
    target = Path(path)
    if target.suffix == ".safetensors":
        write_tensors(target, tensors)
        return
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
            part,
        )
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{target}: cannot be written ({error}); free some space or name another folder"
        ) from error


def _without_estimator(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if ESTIMATOR not in name}


def _official_names(student: Student) -> dict[str, str]:
    """Ours -> theirs for the tensors of ``student.network.estimator``: the mixer is
    ``time_mlp.weight`` here, and what it mixes stands below ``time_mlp.embedding``.
    """
    name: str = getattr(student.network, "time_embedding_name", "")
    if (
        student.interval != "mixed"
        or student.guidance_input is not None
        or not name.startswith("estimator.")
    ):
        raise UserError(
            "this student has no official names: its network is not CosyVoice's or Matcha-TTS's, its interval is not 'mixed', "
            "or it is told its guidance"
        )
    leaf = name.removeprefix("estimator.")
    return {
        ours: MIXER
        if ours == f"{leaf}.weight"
        else ours.replace(f"{leaf}.embedding.", f"{leaf}.", 1)
        for ours in student.network.get_submodule("estimator").state_dict()
    }
