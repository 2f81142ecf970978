"""CosyVoice 3's flow decoder as a teacher (arXiv 2505.17589): ``flow.pt``, ``flow.safetensors``,
training files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.cosyvoice3 import CosyVoice3Network
from mfdistill.networks.dit_config import CosyVoice3Config
from mfdistill.teachers.mel_flow import (
    ESTIMATOR,
    MIXER,
    MelTeacher,
    checkpoint_file,
    estimator_tensors,
    flow_tensors,
    load_estimator,
    weights_of,
)

GUIDANCE = 0.7


def load_cosyvoice3(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> MelTeacher:
    """A teacher from a CosyVoice 3 flow checkpoint; layout ``(b, mels, n)``, condition ``mu``,
    ``mask``, ``spks``, ``cond``.

    Args:
        path: the file, or a folder with ``flow.pt`` or ``flow.safetensors``. Its front end is not
            part of the teacher (``cosyvoice_front.load_front`` reads it).
        config: the estimator's sizes where they are not the published ones (``CosyVoice3Config``),
            and ``fixed_noise`` and ``temperature`` of ``MelTeacher``.
        guidance_strength: None is CosyVoice's 0.7 (a scale of 1.7).
        streaming: attention by chunks of ``static_chunk_size`` frames; ``cond["streaming"]``
            changes it call by call.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, or no chunks to stream
            in.
    """
    given, weights = weights_of(config)
    noise = {key: given.pop(key) for key in ("fixed_noise", "temperature") if key in given}
    sizes = from_dict(CosyVoice3Config, given, f"{path}: config")
    if streaming and not sizes.static_chunk_size:
        raise UserError(
            f"{path}: static_chunk_size 0 has no chunks to stream in; give the frames per chunk in config"
        )
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file, weights))
    if MIXER in tensors:
        raise UserError(
            f"{file}: has {MIXER}, so it is a student of two times; load it with load_student(kind='cosyvoice3')"
        )
    network = CosyVoice3Network(sizes)
    load_estimator(network.estimator, tensors, file, "cosyvoice3")
    network.streaming = streaming
    strength = GUIDANCE if guidance_strength is None else float(guidance_strength)
    description = {"name": "cosyvoice3", "config": to_dict(sizes)}
    saved = {
        "role": "teacher",
        "kind": "cosyvoice3",
        "network": description,
        "guidance_strength": strength,
        "schedule": None,
    }
    return MelTeacher(
        network.to(device),
        strength,
        {**saved, "parent": {"file": str(file), "kind": "cosyvoice3"}},
        **noise,
    )


def is_cosyvoice3(names: Collection[str]) -> bool:
    """CosyVoice 3's flow: causal position convolutions in front of a DiT."""
    leaf = "input_embed.conv_pos_embed.conv1.0.weight"
    return any(name == leaf or name.endswith(ESTIMATOR + leaf) for name in names)
