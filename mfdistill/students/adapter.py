"""Students that are low-rank deltas and an interval embedding on their teacher: saved alone, in the
layout of the package PEFT, and joined with the teacher again wherever they are used.

A folder holds ``adapter_model.safetensors``, ``adapter_config.json`` (PEFT's) and our own
``config.json``. Names count from the module that holds the time embedding (F5-TTS's
``transformer``, CosyVoice's ``estimator``), as in the system's own model of that name; the mixer
of two times stands beside them under its usual name, which PEFT leaves alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import digest_tensors, load_tensors, save_folder, write_json
from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.networks.lora import LORA, merge_deltas
from mfdistill.networks.lora_config import LoraConfig
from mfdistill.plain import Plain, Section
from mfdistill.reading import read_json
from mfdistill.students.student import Student

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MIXER = "time_embed_mixer.weight"
_PREFIX = "base_model.model."


def has_adapter(model: nn.Module) -> TypeGuard[Student]:
    """Whether what is saved of a model are deltas alone."""
    return isinstance(model, Student) and model.adapter is not None


def save_adapter(student: Student, folder: Path, config: Section) -> None:
    """Write PEFT's two files and ``config.json``.

    Raises:
        UserError: the folder cannot be written.
    """
    write_json(folder / ADAPTER_CONFIG, peft_config(student))
    save_folder(folder, adapter_tensors(student), config, ADAPTER)


def adapter_tensors(student: Student) -> dict[str, Tensor]:
    """What was trained, by PEFT's names."""
    names = _peft_names(student)
    trained = dict(student.trained())
    return {names[name]: value.detach().cpu().contiguous() for name, value in trained.items()}


def peft_config(student: Student) -> Plain:
    """``adapter_config.json``: what PEFT needs to put the deltas into the system's own module."""
    config = student.adapter
    assert config is not None and config.rank is not None
    parent = student.parent if isinstance(student.parent, Mapping) else {}
    layers = sorted(
        {
            name.removeprefix(_PREFIX).rpartition(".lora_")[0]
            for name in _peft_names(student).values()
            if ".lora_" in name
        }
    )
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": parent.get("teacher"),
        "r": config.rank,
        "lora_alpha": config.rank if config.alpha is None else config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": layers,
    }


def _peft_names(student: Student) -> dict[str, str]:
    """Trained parameters: ours -> PEFT's."""
    time: str = student.time_embedding
    root = time.rpartition(".")[0]
    trained = [name.removeprefix("network.") for name, _ in student.trained()]
    if not all(name.startswith(f"{root}.") for name in trained):
        root = ""
    leaf = time.removeprefix(f"{root}.") if root else time
    names = {}
    for name in trained:
        own = name.removeprefix(f"{root}.") if root else name
        stem, _, last = own.rpartition(".")
        if last in LORA:
            own += ".weight"
        elif own == f"{leaf}.weight" and student.interval == "mixed":
            own = MIXER
        names[f"network.{name}"] = _PREFIX + own
    return names


def load_adapter(
    path: Path,
    config: Section,
    device: torch.device | str = "cpu",
    teacher: str | None = None,
) -> Student:
    """The whole student of an adapter's folder: its teacher, with the deltas added to its weights.

    Args:
        config: the folder's ``config.json``.
        teacher: another place of the very teacher; None: the one that ``config`` names.

    Raises:
        UserError: the teacher is not there, or is another one; a damaged adapter.
    """
    from mfdistill.teachers.load import load_teacher

    parent = config.get("parent") or {}
    where = teacher or parent.get("teacher")
    if where is None:
        raise UserError(f"{path}: an adapter that does not name its teacher; distil it again")
    try:
        found: Any = load_teacher(
            where, parent.get("kind"), device, config=_sizes(parent.get("sizes"))
        )
    except UserError as error:
        raise UserError(
            f"{path}: is an adapter on the teacher {where}, which cannot be loaded ({error}); bring "
            f"it there, or join them with: mfdistill merge {path} OUT --teacher TEACHER"
        ) from error
    if digest_tensors(found.network.state_dict()) != parent.get("sha256"):
        raise UserError(
            f"{path}: {where} is not the teacher that this adapter was trained on (its weights are "
            "other ones); name that one with: mfdistill merge ... --teacher TEACHER"
        )
    settings = from_dict(LoraConfig, config["adapter"], f"{path}/config.json: adapter")
    student = Student.from_teacher(
        found,
        config.get("schedule") or 1,
        parent,
        config.get("interval") or "mixed",
        config.get("guidance_input"),
        settings,
    )
    put_adapter(student, load_tensors(path / ADAPTER), path)
    join(student)
    return student.to(device).eval()


@torch.no_grad()
def put_adapter(student: Student, tensors: Mapping[str, Tensor], where: object) -> None:
    """Give a student what ``adapter_tensors`` took.

    Raises:
        UserError: names or shapes differ.
    """
    own, names = dict(student.trained()), _peft_names(student)
    wanted = {names[name]: value for name, value in own.items()}
    for name in {**wanted, **tensors}:
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape:
            raise UserError(
                f"{where}: its tensor {name} does not fit the adapter that config.json describes; "
                "restore the folder or distil again"
            )
        wanted[name].copy_(tensors[name])


def join(student: Student) -> None:
    """Add the deltas to the weights, in place: the student is a full one from here on."""
    merge_deltas(student.network)
    student.adapter = None
    student.requires_grad_(True)


def merged(student: Student) -> Student:
    """A full student that computes the same as one of deltas, which stays as it is."""
    whole = copy.deepcopy(student)
    join(whole)
    return whole


def _sizes(file: str | None) -> Plain | None:
    """The JSON file of sizes that the distillation was given."""
    if file is None:
        return None
    return read_json(Path(file), "bring the teacher's file of sizes there")
