"""Matcha-TTS's decoder as a teacher (arXiv 2309.03199), out of its Lightning checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mfdistill.config import to_dict
from mfdistill.errors import UserError
from mfdistill.teachers.cosyvoice2 import build_unet, split_config
from mfdistill.teachers.mel_flow import (
    MelTeacher,
    estimator_tensors,
    flow_tensors,
    load_estimator,
    weights_of,
)

_PUBLISHED = {
    "channels": (256, 256),
    "dropout": 0.05,
    "n_blocks": 1,
    "num_mid_blocks": 2,
    "num_heads": 2,
    "act_fn": "snakebeta",
    "static_chunk_size": 0,
    "causal": False,
    "matcha": True,
}


def load_matcha(
    path: Path,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
    guidance_strength: float | None = None,
    streaming: bool = False,
) -> MelTeacher:
    """A teacher from a Matcha-TTS checkpoint; layout ``(b, mels, n)`` of normalised Mels, condition
    ``mu``, ``mask`` and, with several speakers, ``spks`` (b, 64), the speaker's embedding.

    Its own sampler takes a uniform grid and ``temperature`` 0.667 of the prior; here that is 1
    unless config says so, as in its training. Frames are padded to a multiple of four there, with
    the mask; this network takes any number and cuts as CosyVoice does.

    Args:
        config: sizes where they are not the published ones (``MatchaUNetConfig``), ``temperature``;
            ``in_channels`` (160, or 224 with speakers) and ``out_channels`` are read from the file.

    Raises:
        UserError: another kind of file, weights that do not fit the sizes, guidance or streaming,
            which it does not have.
    """
    if guidance_strength:
        raise UserError(
            f"{path}: trained without a null condition, so guidance strength {guidance_strength} has no meaning; leave it out"
        )
    if streaming:
        raise UserError(
            f"{path}: kind matcha has no streaming form (its norms see all frames); leave streaming out"
        )
    given, weights = weights_of(config)
    tensors = estimator_tensors(flow_tensors(path, weights))
    read = {}
    if "time_mlp.linear_1.weight" in tensors and "final_proj.weight" in tensors:
        read = {
            "in_channels": tensors["time_mlp.linear_1.weight"].shape[1],
            "out_channels": len(tensors["final_proj.weight"]),
        }
    if any(".conv.net." in name for name in tensors):
        raise UserError(
            f"{path}: a decoder of conformer blocks is not supported; the published ones have transformer blocks"
        )
    sizes, options = split_config(given, path, **{**_PUBLISHED, **read})
    network = build_unet(sizes, False, path)
    load_estimator(network.estimator, tensors, path, "matcha")
    description = {"name": "matcha_unet", "config": to_dict(sizes)}
    saved = {
        "role": "teacher",
        "kind": "matcha",
        "network": description,
        "guidance_strength": 0.0,
        "schedule": None,
    }
    noise = {key: options[key] for key in ("fixed_noise", "temperature") if key in options}
    return MelTeacher(
        network.to(device), 0.0, {**saved, "parent": {"file": str(path), "kind": "matcha"}}, **noise
    )
