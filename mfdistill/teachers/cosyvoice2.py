"""CosyVoice 2's flow decoder (arXiv 2412.10117) as a teacher: ``flow.pt``, ``flow.safetensors``,
training files, Chatterbox's decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.matcha_config import MatchaUNetConfig
from mfdistill.networks.matcha_unet import MatchaUNet
from mfdistill.teachers.mel_flow import (
    MIXER,
    MelTeacher,
    checkpoint_file,
    estimator_tensors,
    flow_tensors,
    load_estimator,
    weights_of,
)

GUIDANCE = 0.7
_OPTIONS = ("fixed_noise", "temperature", "meanflow")


def load_cosyvoice2(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> MelTeacher:
    """A teacher from a CosyVoice 2 flow checkpoint; layout ``(b, mels, n)``, condition ``mu``,
    ``mask``, ``spks``, ``cond``.

    Args:
        path: the file, or a folder with ``flow.pt`` or ``flow.safetensors``.
        config: the estimator's sizes where they are not the published ones (``MatchaUNetConfig``);
            ``fixed_noise`` and ``temperature`` of ``MelTeacher``; ``meanflow=False`` leaves a mixer
            of two times in the file out.
        guidance_strength: None is CosyVoice's 0.7 (a scale of 1.7).
        streaming: attention by chunks of ``static_chunk_size`` frames; ``cond["streaming"]``
            changes it call by call.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or no chunks to stream
            in.
    """
    given, weights = weights_of(config)
    sizes, options = split_config(given, path)
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file, weights))
    if MIXER in tensors and options.get("meanflow", True):
        raise UserError(
            f"{file}: has {MIXER}, so it is a student of two times; load it with load_student(kind='chatterbox'), "
            "or as a teacher without it with config={'meanflow': False}"
        )
    tensors.pop(MIXER, None)
    network = build_unet(sizes, streaming, file)
    load_estimator(network.estimator, tensors, file, "cosyvoice2")
    strength = GUIDANCE if guidance_strength is None else float(guidance_strength)
    parent = {"file": str(file), "kind": "cosyvoice2"}
    description = {"name": "matcha_unet", "config": to_dict(sizes)}
    saved = {
        "role": "teacher",
        "kind": "cosyvoice2",
        "network": description,
        "guidance_strength": strength,
        "schedule": None,
    }
    noise = {key: options[key] for key in ("fixed_noise", "temperature") if key in options}
    return MelTeacher(network.to(device), strength, {**saved, "parent": parent}, **noise)


def split_config(
    config: Mapping[str, Any] | None, path: str | Path, **defaults: Any
) -> tuple[MatchaUNetConfig, dict[str, Any]]:
    """Sizes of the network and the teacher's own options out of one mapping.

    Raises:
        UserError: an unknown key.
    """
    given = dict(config or {})
    options = {key: given.pop(key) for key in _OPTIONS if key in given}
    return from_dict(MatchaUNetConfig, {**defaults, **given}, f"{path}: config"), options


def build_unet(sizes: MatchaUNetConfig, streaming: bool, path: str | Path) -> MatchaUNet:
    """A network with random weights.

    Raises:
        UserError: streaming without chunks or without causal convolutions.
    """
    if streaming and (sizes.static_chunk_size < 1 or not sizes.causal):
        raise UserError(
            f"{path}: this network has no streaming form; it needs causal convolutions and a static_chunk_size in config"
        )
    network = MatchaUNet(sizes)
    network.streaming = streaming
    return network
