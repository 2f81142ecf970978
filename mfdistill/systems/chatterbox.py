"""Chatterbox-Turbo's ``s3gen_meanflow``: students of CosyVoice 2's flow, and CosyVoice 2's
``flow.pt`` with a mixer.

One tensor is added to the teacher's: ``decoder.estimator.time_embed_mixer.weight`` (d, 2 d),
applied after the time network; its first d columns multiply the current time's embedding, the
others the destination's. Without it the file is the teacher's kind again. A program that serves it
passes r, skips guidance and does not warp the grid of times.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from torch import Tensor

from mfdistill.checkpoint import write_tensors
from mfdistill.errors import UserError
from mfdistill.networks.mel_unet import MelUNet
from mfdistill.plain import Section
from mfdistill.systems.base import Opened, System, TwoTimes
from mfdistill.systems.cosyvoice2 import KIND
from mfdistill.systems.cosyvoice_front import before_tokens
from mfdistill.systems.files import read_foreign, walk_tensors
from mfdistill.systems.mel_flow import (
    ESTIMATOR,
    MIXER,
    checkpoint_file,
    estimator_state,
    estimator_tensors,
    flow_tensors,
    has_leaf,
    mel_facts,
    open_unet,
    opened,
    read_options,
    split_mixer,
)
from mfdistill.tasks.foreign import read_mel_flow

_STEPS = 2  # of a uniform grid, what Chatterbox-Turbo runs with


def read_chatterbox(path: Path, config: Section | None, streaming: bool) -> Opened:
    """A student from a flow with a mixer of two times: ``s3gen_meanflow.safetensors``, or a
    CosyVoice 2 ``flow.pt`` with that key.

    Args:
        config: the estimator's sizes where they are not the published ones (``MelUNetConfig``),
            as for the teacher.
        streaming: for a student that was distilled so; Chatterbox's own have no chunks, so
            ``static_chunk_size`` must be in config.
    """
    sizes, options = read_options(config, "meanflow")
    if not options.pop("meanflow", True):
        raise UserError(
            f"{path}: meanflow=False is a teacher; load it with load_teacher(kind='cosyvoice2')"
        )
    file = checkpoint_file(path)
    tensors = estimator_tensors(flow_tensors(file))
    mixer = split_mixer(tensors, file, "chatterbox", student=True)
    network = open_unet({"static_chunk_size": 0, **sizes}, tensors, streaming, file, "chatterbox")
    return opened(
        network,
        KIND,
        file,
        mel_facts(network),
        options,
        schedule=_STEPS,
        mixer=mixer,
        own_kind="chatterbox",
    )


def export_chatterbox(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> None:
    """Write a student as ``s3gen_meanflow.safetensors``.

    Args:
        base: a file whose other tensors go along: an s3gen file (kept whole), or a CosyVoice 2 flow
            (its front end, under ``flow.``).

    Raises:
        UserError: no student of the causal U-Net, an unreadable base, or a base without a flow.
    """
    if not isinstance(student.network, MelUNet) or not student.network.config.causal:
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
    kept = {name: value for name, value in others.items() if ESTIMATOR not in name}
    state = {f"flow.{ESTIMATOR}{name}": value for name, value in estimator_state(student).items()}
    write_tensors(Path(path), {**kept, **state})


def is_chatterbox(names: Collection[str]) -> bool:
    """A U-Net with the mixer of two times."""
    return has_leaf(names, MIXER) and not has_leaf(names, "input_embed.proj.weight")


CHATTERBOX = System(
    "chatterbox",
    is_chatterbox,
    None,
    read_chatterbox,
    {"chatterbox": export_chatterbox},
    partial(read_mel_flow, KIND),
    mel_facts,
    label="Chatterbox",
    licence=("mit", "the published Chatterbox weights are MIT"),
    mel=KIND,
    before=before_tokens,
)
