"""CosyVoice 2's flow decoder (arXiv 2412.10117): ``flow.pt``, ``flow.safetensors``, training files,
Chatterbox's decoder.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.errors import UserError
from mfdistill.networks.mel_unet_config import MelUNetConfig
from mfdistill.plain import Section
from mfdistill.systems.base import Opened, System
from mfdistill.systems.cosyvoice_front import before_tokens, front_file
from mfdistill.systems.mel_flow import (
    MIXER,
    checkpoint_file,
    estimator_tensors,
    export_cosyvoice,
    flow_tensors,
    has_leaf,
    mel_facts,
    open_unet,
    opened,
    read_options,
    weights_of,
)
from mfdistill.tasks.foreign import MelKind, read_mel_flow

GUIDANCE = 0.7
KIND = MelKind(
    "cosyvoice2",
    "CosyVoice 2",
    SpeechMelConfig(n_fft=1920, hop=480, n_mels=80, f_max=8000),
    "tokens",
    ratio=2,
)
LICENCE = ("apache-2.0", "the published CosyVoice weights are Apache-2.0")


def read_cosyvoice2(path: Path, config: Section | None, streaming: bool) -> Opened:
    """A teacher from a CosyVoice 2 flow checkpoint; layout ``(b, mels, n)``, condition ``mu``,
    ``mask``, ``spks``, ``cond``. Its guidance is 0.7 (a scale of 1.7).

    Args:
        path: the file, or a folder with ``flow.pt`` or ``flow.safetensors``.
        config: the estimator's sizes where they are not the published ones (``MelUNetConfig``);
            ``fixed_noise`` and ``temperature`` of the prior; ``meanflow=False`` leaves a mixer
            of two times in the file out.
        streaming: attention by chunks of ``static_chunk_size`` frames; ``cond["streaming"]``
            changes it call by call.
    """
    config, weights = weights_of(config)
    sizes, options = read_options(config, "meanflow")
    file, meanflow = checkpoint_file(path), options.pop("meanflow", True)
    tensors = estimator_tensors(flow_tensors(file, weights))
    if MIXER in tensors and meanflow:
        raise UserError(
            f"{file}: has {MIXER}, so it is a student of two times; load it with load_student(kind='chatterbox'), "
            "or as a teacher without it with config={'meanflow': False}"
        )
    tensors.pop(MIXER, None)
    network = open_unet(sizes, tensors, streaming, file, "cosyvoice2")
    facts = mel_facts(network)
    return opened(network, KIND, file, facts, options, GUIDANCE)


def is_cosyvoice2(names: Collection[str]) -> bool:
    """CosyVoice 2's flow: the causal U-Net (layer norms), one time."""
    return has_leaf(names, "down_blocks.0.0.block1.block.2.weight") and not has_leaf(names, MIXER)


COSYVOICE2 = System(
    "cosyvoice2",
    is_cosyvoice2,
    read_cosyvoice2,
    layouts={"cosyvoice": export_cosyvoice},
    task=partial(read_mel_flow, KIND),
    facts=mel_facts,
    files=front_file,
    folders=True,
    label=KIND.label,
    licence=LICENCE,
    mel=KIND,
    guidance=GUIDANCE,
    published=MelUNetConfig(),
    before=before_tokens,
)
