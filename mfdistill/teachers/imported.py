"""Other systems' teachers as folders of ours: converted once, found with their sizes, front end and
vocabulary ever after.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.checkpoint import load_config, load_tensors, remove_folder, save_folder
from mfdistill.companions import SECTION, checksums, write_companions
from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.networks import build_network
from mfdistill.networks.build import bounded
from mfdistill.reading import read_text
from mfdistill.teachers.cosyvoice_front import FRONT, front_bytes, has_front, load_front
from mfdistill.teachers.f5 import F5Teacher
from mfdistill.teachers.load import load_teacher, load_weights, resolve
from mfdistill.teachers.mel_flow import MelTeacher
from mfdistill.teachers.predictor import with_predictor
from mfdistill.teachers.protocol import Teacher
from mfdistill.weights import tensor_sizes

VOCAB = "vocab.txt"
_MEL_KINDS = ("cosyvoice2", "cosyvoice3", "matcha")
_F5_KINDS = ("f5", "f5-unett")


def import_teacher(
    file: str | Path,
    out: str | Path,
    kind: str | None = None,
    config: Mapping[str, Any] | None = None,
    vocab: str | Path | None = None,
    overwrite: bool = False,
) -> Teacher:
    """Write another system's teacher as a folder: ``model.safetensors``, ``config.json``, and
    CosyVoice's front end (``front.safetensors``) or F5-TTS's vocabulary (``vocab.txt``) where they
    are there.

    Args:
        file, kind, config: as ``load_teacher``. vocab: default ``vocab.txt`` beside the file.

    Returns: the teacher that was written.
    Raises:
        UserError: as ``load_teacher``; a folder of ours already; a kind that has no folder form;
            ``out`` in use; a vocabulary of another size. ``out`` is then as it was.
    """
    place, target = resolve(file), Path(out).absolute()
    if place.is_dir() and (place / "config.json").is_file():
        raise UserError(f"{file}: is a folder of this program already; use it as it is")
    _check_target(target, overwrite)
    teacher: Any = load_teacher(place, kind, config=config)
    saved = dict(getattr(teacher, "config", None) or {})
    if not saved.get("network"):
        raise UserError(
            f"{file}: its network has no description, so a folder cannot hold it; name the file itself where it is used"
        )
    task = getattr(teacher, "task", None)
    saved["task"] = None if task is None else to_dict(task.config)
    if saved.get("predictor") and task is None:
        raise UserError(f"{file}: does not say its prior's spread; give it with --sizes (sigma_y)")
    if isinstance(teacher, MelTeacher):
        saved["prior"] = {"fixed_noise": teacher.fixed_noise, "temperature": teacher.temperature}
    sizes: Any = getattr(teacher.network, "config", None)
    vocabulary = (
        _vocabulary(place, vocab, sizes.text_num_embeds) if isinstance(teacher, F5Teacher) else None
    )
    companions: dict[str, bytes] = {}
    if vocabulary is not None:
        companions[VOCAB] = vocabulary
    if saved.get("kind") in ("cosyvoice2", "cosyvoice3") and has_front(place):
        companions[FRONT] = front_bytes(load_front(place))
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        write_companions(part, companions)
        saved |= {SECTION: checksums(companions)} if companions else {}
        save_folder(part, with_predictor(teacher.network.state_dict(), task), saved)
        if target.exists():  # empty, or what --overwrite replaces
            os.replace(target, old)
        os.replace(part, target)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error}); free some space or name another folder"
        ) from error
    finally:
        remove_folder(part)
        remove_folder(old)
    return teacher


def _check_target(target: Path, overwrite: bool) -> None:
    """Raise ``UserError`` where ``target`` is in use by something that must not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{target}: is there already; name another folder or add --overwrite")
    imported = (
        (target / "config.json").is_file()
        and load_config(target).get("role") == "teacher"
        and not (target / "log.jsonl").exists()
    )
    if not imported:
        raise UserError(
            f"{target}: is no folder that teacher-import wrote, so --overwrite does not remove it; "
            "name another folder"
        )


def _vocabulary(place: Path, vocab: str | Path | None, size: int) -> bytes | None:
    beside = (place if place.is_dir() else place.parent) / VOCAB
    file = Path(vocab) if vocab is not None else beside
    if not file.is_file():
        if vocab is not None:
            raise UserError(f"--vocab {vocab}: no such file")
        return None
    text = read_text(file)
    count = text.removesuffix("\n").count("\n") + 1 if text else 0
    if count != size:
        raise UserError(
            f"--vocab {file}: has {count} symbols, the checkpoint's table {size}; take the vocab.txt that belongs to this "
            "checkpoint"
        )
    return text.encode()


def load_imported(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> Teacher:
    """A teacher from a folder that ``import_teacher`` wrote (arguments and errors as
    ``load_teacher``).
    """
    if config is not None:
        raise UserError(f"{path}: holds its own sizes; leave config out")
    saved = load_config(path)
    kind, section = saved["kind"], saved.get("network")
    if kind not in (*_F5_KINDS, *_MEL_KINDS):
        raise UserError(
            f"{path}/config.json: kind {kind!r} is unknown; known are {', '.join((*_F5_KINDS, *_MEL_KINDS))}"
        )
    if not isinstance(section, Mapping) or "name" not in section:
        raise UserError(f"{path}/config.json: needs a section 'network'; import the teacher again")
    values = sum(tensor_sizes(path / "model.safetensors").values())
    with bounded(values, f"{path}/config.json"):
        network = build_network(section["name"], section.get("config") or {})
    load_weights(network, load_tensors(path), path)
    given = (
        saved.get("guidance_strength") or 0.0 if guidance_strength is None else guidance_strength
    )
    if not isinstance(given, (int, float)) or not abs(given) < 1e6:
        raise UserError(f"{path}: guidance strength {given!r:.40} is no plausible number")
    strength = float(given)
    if kind == "matcha" and strength:
        raise UserError(
            f"{path}: trained without a null condition, so guidance strength {strength} has no meaning; leave it out"
        )
    if streaming:
        if (
            kind not in _MEL_KINDS
            or not getattr(network.config, "static_chunk_size", 0)
            or not getattr(network.config, "causal", True)
        ):
            raise UserError(
                f"{path}: kind {kind} with these sizes has no streaming form; leave streaming out"
            )
        network.streaming = True  # type: ignore[assignment]
    if kind in _F5_KINDS:
        return F5Teacher(network.to(device), strength, config=saved)
    prior = saved.get("prior") or {}
    if not isinstance(prior, Mapping) or not set(prior) <= {"fixed_noise", "temperature"}:
        raise UserError(f"{path}/config.json: prior: expected fixed_noise and temperature")
    return MelTeacher(network.to(device), strength, saved, **prior)
