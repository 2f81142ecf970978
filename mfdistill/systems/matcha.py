"""Matcha-TTS's decoder (arXiv 2309.03199), out of its Lightning checkpoints."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.errors import UserError
from mfdistill.plain import Section
from mfdistill.systems.base import Opened, System, no_stream
from mfdistill.systems.mel_flow import (
    estimator_tensors,
    flow_tensors,
    has_leaf,
    mel_facts,
    open_unet,
    opened,
    read_options,
    weights_of,
)
from mfdistill.tasks.foreign import MelKind, read_mel_flow

KIND = MelKind(
    "matcha",
    "Matcha-TTS",
    SpeechMelConfig(22050, n_mels=80, f_max=8000),
    "features",
    prompted=False,
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
    "soft_mask": True,
}


def read_matcha(path: Path, config: Section | None, streaming: bool) -> Opened:
    """A teacher from a Matcha-TTS checkpoint; layout ``(b, mels, n)`` of normalised Mels, condition
    ``mu``, ``mask`` and, with several speakers, ``spks`` (b, 64), the speaker's embedding.

    Its own sampler takes a uniform grid and ``temperature`` 0.667 of the prior; here that is 1
    unless config says so, as in its training. Frames are padded to a multiple of four there, with
    the mask; this network takes any number and cuts as CosyVoice does.

    Args:
        config: sizes where they are not the published ones (``MelUNetConfig``), ``temperature``;
            ``in_channels`` (160, or 224 with speakers) and ``out_channels`` are read from the file.
    """
    if streaming:
        raise no_stream(path, "matcha")
    config, weights = weights_of(config)
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
    sizes, prior = read_options(config)
    network = open_unet({**_PUBLISHED, **read, **sizes}, tensors, False, path, "matcha")
    return opened(network, KIND, path, matcha_facts(network), prior)


matcha_facts = partial(mel_facts, guided=False)


def is_matcha(names: Collection[str]) -> bool:
    """Matcha-TTS's decoder: group norms; CosyVoice 1 has them too, and speech tokens."""
    return has_leaf(names, "down_blocks.0.0.block1.block.1.weight") and not any(
        "input_embedding.weight" in name for name in names
    )


def before_matcha(place: Path) -> str:
    """Its text encoder, which is not read."""
    return "none here: features mu of Matcha-TTS's own encoder"


MATCHA = System(
    "matcha",
    is_matcha,
    read_matcha,
    facts=matcha_facts,
    task=partial(read_mel_flow, KIND),
    label=KIND.label,
    licence=("mit", "the published Matcha-TTS weights are MIT"),
    mel=KIND,
    before=before_matcha,
)
