"""What the flows of CosyVoice and its kin share: guidance, the training pair, estimators out of
files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import write_pickle, write_tensors
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.flow import cosine_times
from mfdistill.flow import schedule as equal_times
from mfdistill.networks.build import network_name
from mfdistill.networks.causal_dit import CausalDiTNetwork
from mfdistill.networks.mel_unet import MelUNet
from mfdistill.networks.mel_unet_config import MelUNetConfig
from mfdistill.plain import Plain, Section
from mfdistill.systems.base import SIZES, Cond, FieldFacts, Misfit, Opened, TwoTimes, check_fit
from mfdistill.systems.files import MIXER, read_foreign, walk_tensors
from mfdistill.tasks.foreign import MelKind, mel_flow

ESTIMATOR = "decoder.estimator."
_CONDITION = ("mu", "spks", "cond")  # what the null branch has zeros for; mask and streaming stay


def mel_facts(network: nn.Module, guided: bool = True) -> FieldFacts:
    """Of a flow of CosyVoice, or of its first kin (not ``guided``): straight paths,
    CosyVoice's null condition.
    """
    chunks = bool(network.chunks)
    why = "" if chunks else "it needs causal convolutions and a static_chunk_size in config"
    grid, null = (cosine_times, zeros_for_condition) if guided else (equal_times, None)
    return FieldFacts(1.0, True, grid, 10, null, "chunks" if chunks else None, why)


def zeros_for_condition(cond: Cond, t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """CosyVoice's null condition: zeros for tokens, speaker and prompt."""
    null = {
        key: torch.zeros_like(value) if key in _CONDITION else value for key, value in cond.items()
    }
    return dict(cond), null


def training_pair(
    z_1: Tensor, noise: Tensor, t: Tensor, sigma_min: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """State ``(1 - (1 - sigma_min) t) noise + t z_1`` and target ``z_1 - (1 - sigma_min) noise`` of
    CosyVoice's training (sigma_min 1e-6; 1e-4 in arXiv 2309.03199); z_1, noise (b, mels, n),
    t (b,).
    """
    time = t.reshape(-1, 1, 1)
    return (1 - (1 - sigma_min) * time) * noise + time * z_1, z_1 - (1 - sigma_min) * noise


def masked_error(estimate: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """CosyVoice's loss: squared error per valid value, 0-d; estimate, target (b, mels, n), mask (b,
    1, n).
    """
    return ((estimate - target) * mask).square().sum() / (mask.sum() * target.shape[1])


def checkpoint_file(place: Path) -> Path:
    """The file of a model folder (``flow.pt`` or ``flow.safetensors``), or ``place`` itself.

    Raises:
        UserError: a folder with neither.
    """
    if not place.is_dir():
        return place
    for name in ("flow.pt", "flow.safetensors"):
        if (place / name).is_file():
            return place / name
    raise UserError(
        f"{place}: has neither flow.pt nor flow.safetensors; name the checkpoint itself"
    )


def weights_of(config: Section | None) -> tuple[Plain, str]:
    """Sizes, and which weights are asked for: "ema" (moving averages, where a file has them), or
    "raw".

    Raises:
        UserError: another word.
    """
    sizes = dict(config or {})
    weights = sizes.pop("weights", "ema")
    if weights not in ("ema", "raw"):
        raise UserError(f"weights {weights!r:.40} is not one of 'ema', 'raw' (--sizes)")
    return sizes, weights


def flow_tensors(path: Path, weights: str = "ema") -> dict[str, Tensor]:
    """The tensors of a flow file by the names of CosyVoice's ``flow.pt`` (``decoder.estimator.*``
    and the front end), without what stands before them in other files (``flow.``, a section of a
    training file); the file may also hold a bare estimator. Where it has moving averages and raw
    weights, ``weights`` ("ema" or "raw") chooses.

    Raises:
        UserError: unreadable, or no such estimator in it.
    """
    file = read_foreign(path)
    found = dict(walk_tensors(file.values))
    prefixes = sorted(
        {name[: name.index(ESTIMATOR)] for name in found if ESTIMATOR in name}, key=len
    )
    averaged = [prefix for prefix in prefixes if "ema" in re.split(r"[._]", prefix)]
    raw = [prefix for prefix in prefixes if prefix not in averaged]
    if averaged and not raw and weights == "raw":
        raise UserError(
            f"{path}: has moving averages only; ask for weights 'ema' (in --sizes), or leave it out"
        )
    if prefixes:
        prefixes = (averaged or raw) if weights == "ema" else raw
        return {
            name.removeprefix(prefixes[0]): value
            for name, value in found.items()
            if name.startswith(prefixes[0])
        }
    if any(name.startswith(("time_mlp.", "time_embed.")) for name in found):
        return {ESTIMATOR + name: value for name, value in found.items()}
    raise Misfit(f"{path}: has no tensors named {ESTIMATOR}*", SIZES, file.names())


def estimator_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``flow_tensors`` that are the estimator's, by its own names."""
    return {
        name.removeprefix(ESTIMATOR): value
        for name, value in tensors.items()
        if name.startswith(ESTIMATOR)
    }


def load_estimator(
    module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, kind: str
) -> None:
    """Load weights strictly; ``tensors`` by the names of ``module``; errors as
    ``systems.base.check_fit``.
    """
    check_fit(module.state_dict(), tensors, path, kind, ESTIMATOR)
    module.load_state_dict(dict(tensors))


def read_options(config: Section | None, *more: str) -> tuple[Plain, Plain]:
    """Sizes, and the options beside them: ``fixed_noise`` and ``temperature`` of the prior, and
    ``more``.
    """
    sizes = dict(config or {})
    return sizes, {
        key: sizes.pop(key) for key in ("fixed_noise", "temperature", *more) if key in sizes
    }


def estimator_state(student: TwoTimes) -> dict[str, Tensor]:
    """The tensors of a student's estimator by the originals' names, with the mixer, for any network
    that holds one as ``estimator``: the mixer is ``time_mlp.weight`` here, and what it mixes stands
    below ``time_mlp.embedding``.

    Raises:
        UserError: a network without official names, or one whose second time is embedded in another
            way.
    """
    name = str(student.network.time_embedding_name)
    if (
        student.interval != "mixed"
        or student.guidance_input is not None
        or not name.startswith("estimator.")
    ):
        raise UserError(
            "this student has no official names: its network is not one of these systems', its interval is not 'mixed', "
            "or it is told its guidance"
        )
    leaf = name.removeprefix("estimator.")
    own = student.network.get_submodule("estimator").state_dict()
    return {
        MIXER
        if ours == f"{leaf}.weight"
        else ours.replace(f"{leaf}.embedding.", f"{leaf}.", 1): value
        for ours, value in own.items()
    }


def export_cosyvoice(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> None:
    """Write a student as CosyVoice's ``flow.pt`` (or ``.safetensors``, by the name) with the
    mixer's key.

    Args:
        base: the teacher's ``flow.pt`` or an s3gen file; its front end goes along.

    Raises:
        UserError: a network without official names, an unreadable base, or a disk that is full.
    """
    others = {} if base is None else flow_tensors(checkpoint_file(Path(base)))
    tensors = {
        **{name: value for name, value in others.items() if ESTIMATOR not in name},
        **{ESTIMATOR + name: value for name, value in estimator_state(student).items()},
    }
    target = Path(path)
    if target.suffix == ".safetensors":
        write_tensors(target, tensors)
    else:
        whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_pickle(target, whole)


def has_leaf(names: Collection[str], leaf: str) -> bool:
    """Whether an estimator has the tensor ``leaf``, with whatever prefixes."""
    return any(name == leaf or name.endswith(ESTIMATOR + leaf) for name in names)


def open_unet(
    sizes: Section, tensors: Mapping[str, Tensor], streaming: bool, path: Path, kind: str
) -> MelUNet:
    """The U-Net of these sizes with an estimator's weights.

    Raises:
        UserError: weights that do not fit the sizes, streaming without chunks or without causal
            convolutions.
    """
    network = MelUNet(from_dict(MelUNetConfig, sizes, f"{path}: config"))
    if streaming and not network.chunks:
        raise UserError(
            f"{path}: this network has no streaming form; it needs causal convolutions and a static_chunk_size in config"
        )
    network.streaming = streaming
    load_estimator(network.estimator, tensors, path, kind)
    return network


def opened(
    network: MelUNet | CausalDiTNetwork,
    kind: MelKind,
    path: Path,
    facts: FieldFacts,
    prior: Section,
    guidance: float = 0.0,
    schedule: int = 1,
    mixer: Tensor | None = None,
    own_kind: str | None = None,
) -> Opened:
    """A Mel flow as ``systems.base.Opened``.

    Args:
        kind: of the task. prior: ``fixed_noise``, ``temperature``. own_kind: of the file, where it
            is not the task's.
    """
    config = {
        "role": "teacher",
        "kind": own_kind or kind.name,
        "network": {"name": network_name(network.config), "config": to_dict(network.config)},
        "guidance_strength": guidance,
        "schedule": None,
        "parent": {"file": str(path), "kind": own_kind or kind.name},
    }
    task = mel_flow(kind, network.estimator.bands, **prior)
    return Opened(network, task, facts, config, guidance, schedule, "mixed", mixer)


def split_mixer(tensors: dict[str, Tensor], file: Path, kind: str, student: bool) -> Tensor | None:
    """Takes a student's mixer of two times out of an estimator's tensors.

    Raises:
        UserError: a student's file read as a teacher's, or the other way round.
    """
    if MIXER in tensors and not student:
        raise UserError(
            f"{file}: has {MIXER}, so it is a student of two times; load it with load_student(kind='{kind}')"
        )
    if MIXER not in tensors and student:
        names = [ESTIMATOR + name for name in tensors]
        raise Misfit(f"{file}: lacks {ESTIMATOR}{MIXER}, so it is no student", SIZES, names)
    return tensors.pop(MIXER, None)
