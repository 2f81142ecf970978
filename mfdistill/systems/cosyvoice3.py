"""CosyVoice 3's flow decoder (arXiv 2505.17589): ``flow.pt``, ``flow.safetensors``, training
files.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.networks.causal_dit import CausalDiTNetwork
from mfdistill.networks.dit_config import CausalDiTConfig
from mfdistill.plain import Section
from mfdistill.systems.base import Opened, System
from mfdistill.systems.cosyvoice2 import LICENCE
from mfdistill.systems.cosyvoice_front import before_tokens, front_file
from mfdistill.systems.files import mixed_role
from mfdistill.systems.mel_flow import (
    checkpoint_file,
    estimator_tensors,
    export_cosyvoice,
    flow_tensors,
    has_leaf,
    load_estimator,
    mel_facts,
    opened,
    read_options,
    split_mixer,
    weights_of,
)
from mfdistill.tasks.foreign import MelKind, read_mel_flow

GUIDANCE = 0.7
KIND = MelKind(
    "cosyvoice3",
    "CosyVoice 3",
    SpeechMelConfig(n_fft=1920, hop=480, n_mels=80),
    "tokens",
    ratio=2,
)


def read_cosyvoice3(
    path: Path, config: Section | None, streaming: bool, student: bool = False
) -> Opened:
    """A teacher from a CosyVoice 3 flow checkpoint, or a student that ``export_cosyvoice`` wrote,
    whose one step is from 0 to 1; layout ``(b, mels, n)``, condition ``mu``, ``mask``, ``spks``,
    ``cond``. Its guidance is 0.7 (a scale of 1.7).

    Args:
        path: the file, or a folder with ``flow.pt`` or ``flow.safetensors``. Its front end is not
            part of the network (``cosyvoice_front.load_front`` reads it).
        config: the estimator's sizes where they are not the published ones (``CausalDiTConfig``),
            and ``fixed_noise`` and ``temperature`` of the prior.
        streaming: attention by chunks of ``static_chunk_size`` frames; ``cond["streaming"]``
            changes it call by call.
    """
    config, weights = weights_of(config)
    sizes, prior = read_options(config)
    network = CausalDiTNetwork(from_dict(CausalDiTConfig, sizes, f"{path}: config"))
    if streaming and not network.chunks:
        raise UserError(
            f"{path}: static_chunk_size 0 has no chunks to stream in; give the frames per chunk in config"
        )
    network.streaming = streaming
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file, weights))
    mixer = split_mixer(tensors, file, "cosyvoice3", student)
    load_estimator(network.estimator, tensors, file, "cosyvoice3")
    facts = mel_facts(network)
    return opened(network, KIND, file, facts, prior, GUIDANCE, mixer=mixer)


def is_cosyvoice3(names: Collection[str]) -> bool:
    """CosyVoice 3's flow: causal position convolutions in front of a DiT."""
    return has_leaf(names, "input_embed.conv_pos_embed.conv1.0.weight")


COSYVOICE3 = System(
    "cosyvoice3",
    is_cosyvoice3,
    read_cosyvoice3,
    partial(read_cosyvoice3, student=True),
    {"cosyvoice": export_cosyvoice},
    partial(read_mel_flow, KIND),
    mel_facts,
    front_file,
    folders=True,
    label=KIND.label,
    licence=LICENCE,
    mel=KIND,
    guidance=GUIDANCE,
    published=CausalDiTConfig(),
    role=lambda place: mixed_role(checkpoint_file(place)),
    before=before_tokens,
)
