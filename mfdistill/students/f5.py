"""Students of F5-TTS in its own layout: ``ema_model.transformer.*`` with one tensor more, the mixer
of two times.

``ema_model.transformer.time_embed_mixer.weight`` (d, 2 d) is applied after the time network; its
first d columns multiply the current time's embedding, the others the destination's. Without it the
file has the teacher's names and loads strictly into f5-tts.
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
from mfdistill.networks.dit_config import F5Config, F5UNetTConfig
from mfdistill.networks.f5 import F5Network
from mfdistill.parts import part_of
from mfdistill.students.student import Student
from mfdistill.tasks.foreign import foreign_task
from mfdistill.teachers.f5 import MIXER, checkpoint_of, f5_tensors, fit_weights
from mfdistill.teachers.foreign import read_foreign

_LEAF = "time_embed"
_STEPS = 3  # of a uniform grid, where the file is all there is


def export_f5(student: Student, path: str | Path) -> Path:
    """Write a student as F5-TTS's ``.safetensors``, or as its training file ``.pt``
    (``ema_model_state_dict``).

    Raises:
        UserError: a student of another network, one that is told its guidance, another ending, a
            disk that is full.
    """
    target = Path(path)
    if target.suffix not in (".safetensors", ".pt"):
        raise UserError(
            f"{target}: F5-TTS reads .safetensors and .pt files; give the file one of these endings"
        )
    tensors = {
        f"ema_model.transformer.{name}": value.detach().cpu().clone()
        for name, value in transformer_state(student).items()
    }
    tensors |= {"initted": torch.tensor(True), "step": torch.tensor(0)}
    if target.suffix == ".safetensors":
        write_tensors(target, tensors)
        return target
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"ema_model_state_dict": tensors, "update": 0}, part)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{target}: cannot be written ({error}); free some space or name another folder"
        ) from error
    return target


def transformer_state(student: Student) -> dict[str, Tensor]:
    """The tensors of a student's transformer by F5-TTS's names, with the mixer; of a live f5-tts
    module too.

    Raises:
        UserError: another network, or another embedding of the interval.
    """
    name: str = getattr(student.network, "time_embedding_name", "")
    if (
        student.interval != "mixed"
        or student.guidance_input is not None
        or name != f"transformer.{_LEAF}"
    ):
        raise UserError(
            "this student has no F5-TTS layout: its network is not F5-TTS's, its interval is not 'mixed', or it is told its "
            "guidance"
        )
    own = student.network.get_submodule("transformer").state_dict()
    return {
        MIXER
        if ours == f"{_LEAF}.weight"
        else ours.replace(f"{_LEAF}.embedding.", f"{_LEAF}.", 1): value
        for ours, value in own.items()
    }


def load_f5_student(
    kind: str,
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Student:
    """A student from a file that ``export_f5`` wrote, of ``kind`` "f5" or "f5-unett"; its steps are
    three equal ones.

    Args:
        config: sizes where they are not the published ones, as for the teacher.

    Raises:
        UserError: a file without the mixer, weights that do not fit the sizes, or streaming, which
            it does not have.
    """
    if streaming:
        raise UserError(
            f"{path}: kind {kind} has no streaming form (it attends to all frames); leave streaming out"
        )
    sizes = from_dict(F5Config if kind == "f5" else F5UNetTConfig, config or {}, f"{path}: config")
    tensors = f5_tensors(read_foreign(checkpoint_of(path)))
    if MIXER not in tensors:
        raise UserError(
            f"{path}: lacks {MIXER}, so it is no student; load it with load_teacher(kind='{kind}')"
        )
    mixer = tensors.pop(MIXER)
    network = F5Network(sizes)
    fit_weights(network.transformer, tensors, path, kind)
    description = {"name": kind.replace("-", "_"), "config": to_dict(sizes)}
    parent = {"file": str(path), "kind": kind}
    student = Student(
        network,
        network.time_embedding_name,
        foreign_task(kind, sizes.mel_dim),
        _STEPS,
        description,
        parent,
    )
    weight: Any = student.network.get_submodule(network.time_embedding_name).weight
    if weight.shape != mixer.shape:
        raise UserError(
            f"{path}: {MIXER} is {tuple(mixer.shape)}, the network needs {tuple(weight.shape)}"
        )
    with torch.no_grad():
        weight.copy_(mixer)
    return student.to(device).eval()
