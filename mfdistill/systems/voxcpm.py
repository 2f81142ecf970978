"""VoxCPM's flow head (arXiv 2509.24650): latents of its VAE, patch by patch, instead of a Mel
spectrogram.

A student distilled with ``--interval delta`` is VoxCPM's own file again: its head has a branch for
the length of the interval, which the published weights leave at 0. ``config.json`` then says
``dit_mean_mode: true``, and the program samples without its guidance, zeroed first step and warped
grid.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.checkpoint import write_tensors
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.voxcpm import VoxCPMNetwork
from mfdistill.networks.voxcpm_config import VoxCPMConfig
from mfdistill.plain import Plain, Section
from mfdistill.reading import parse_json, read_text
from mfdistill.systems.base import (
    SIZES,
    Cond,
    FieldFacts,
    Misfit,
    Opened,
    System,
    TwoTimes,
    check_fit,
    no_stream,
)
from mfdistill.systems.files import read_foreign, walk_tensors
from mfdistill.tasks.foreign import ForeignTask, ForeignTaskConfig, MelKind

GUIDANCE, STEPS = 1.0, 10  # its cfg_value 2
_PREFIX, _CONFIG = "feat_decoder.estimator.", "config.json"
_TIMES = ("time_mlp.", "delta_time_mlp.")
_WHY = "every patch is made by itself, which its own program streams"
KIND = MelKind(
    "voxcpm", "VoxCPM", SpeechMelConfig(16000, 640, 640, 64), "features", recordings=False
)


class VoxCPMTask(ForeignTask):
    """From noise to latents; the condition shows every patch the one before it."""

    def shown(self, x: Tensor, prompt: Tensor) -> Tensor:
        """``x`` (b, latents, n) one patch later, zeros for the first."""
        unit = self.config.frames_per_mu
        return torch.nn.functional.pad(x[:, :, : x.shape[2] - unit], (unit, 0))

    def like(self, cond: Cond) -> Tensor:
        """``cond["cond"]`` (b, latents, n)."""
        return cond["cond"]

    def mel(self, wave: Tensor) -> Tensor:
        """Latents are not made here.

        Raises:
            UserError: always.
        """
        raise UserError(
            "VoxCPM's latents are made by its VAE, which is not here: give them as features mel"
        )


def voxcpm_times(steps: int) -> list[float]:
    """Its sampler's times on our clock: ``2 u - sin(pi u / 2)`` of an equal grid."""
    grid = (i / steps for i in range(steps + 1))
    return [2 * u - math.sin(math.pi / 2 * u) for u in grid]


def without_hidden(cond: Cond, t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Its null condition: zeros for the language model's hidden vectors."""
    return dict(cond), {**cond, "mu": torch.zeros_like(cond["mu"])}


def voxcpm_facts(network: nn.Module) -> FieldFacts:
    """Of a flow head of VoxCPM; CFG-Zero* (``--guidance.rule zero-star``) is taken patch by
    patch.
    """
    unit: int = network.config.patch_size  # type: ignore[union-attr, assignment]
    return FieldFacts(1.0, True, voxcpm_times, STEPS, without_hidden, None, _WHY, unit=unit)


def read_task(section: Section, where: str) -> VoxCPMTask:
    """As ``tasks.foreign.read_mel_flow``."""
    return VoxCPMTask(from_dict(ForeignTaskConfig, section, where), KIND)


def read_voxcpm(
    path: Path, config: Section | None, streaming: bool, student: bool = False
) -> Opened:
    """A teacher from VoxCPM's ``model.safetensors`` (guidance 1, 10 steps), or a student of one
    step, where its ``config.json`` says ``dit_mean_mode``.

    Args:
        path: the file; ``config.json`` beside it has the sizes.
        config: sizes (``VoxCPMConfig``) where there is no such file, and ``mean_mode``.
    """
    if streaming:
        raise no_stream(path, "voxcpm", _WHY)
    tensors, beside = head_tensors(path), _beside(path)
    found, mean, rate, hop = _sizes(beside) if beside else ({}, False, 16000, 640)
    given = dict(config or {})
    mean = bool(given.pop("mean_mode", mean))
    if mean != student:
        other = ("teacher", "load_teacher") if student else ("student", "load_student")
        raise UserError(
            f"{path}: is a {other[0]} (dit_mean_mode {str(mean).lower()} in {_CONFIG}); load it with {other[1]}(kind='voxcpm')"
        )
    sizes = from_dict(VoxCPMConfig, {**found, **given}, f"{path}: config")
    with torch.device("meta"):
        network = VoxCPMNetwork(sizes)
    check_fit(network.state_dict(), tensors, path, "voxcpm", _PREFIX)
    network.to_empty(device="cpu").load_state_dict(tensors)
    if not student:
        network.time.forget_length()
    mel = SpeechMelConfig(rate, hop, hop, sizes.feat_dim)
    task = VoxCPMTask(ForeignTaskConfig("voxcpm", mel, frames_per_mu=sizes.patch_size), KIND)
    saved = {
        "role": "teacher",
        "kind": "voxcpm",
        "network": {"name": "voxcpm", "config": to_dict(sizes)},
        "guidance_strength": GUIDANCE,
        "schedule": None,
        "parent": {"file": str(path), "kind": "voxcpm"},
    }
    return Opened(network, task, voxcpm_facts(network), saved, GUIDANCE, 1, "delta")


def head_tensors(path: Path) -> dict[str, Tensor]:
    """The flow head's tensors of a file by the names of ``VoxCPMNetwork``, in single precision.

    Raises:
        UserError: unreadable, or no flow head in it.
    """
    file = read_foreign(path)
    found = {
        name.split(_PREFIX)[1]: value.float()
        for name, value in walk_tensors(file.values)
        if _PREFIX in name
    }
    if not found:
        raise Misfit(f"{path}: has no tensors named {_PREFIX}*", SIZES, file.names())
    return {
        ("time." if name.startswith(_TIMES) else "estimator.") + name: value
        for name, value in found.items()
    }


def export_voxcpm(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> Path:
    """Write a student's flow head as VoxCPM's ``model.safetensors``.

    Args:
        base: the teacher's ``model.safetensors``; its other tensors go along, and all in its
            precision.

    Raises:
        UserError: a student of another network or interval, or one that is told its guidance,
            another ending, an unreadable base, a disk that is full.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: VoxCPM reads model.safetensors; give the file this ending")
    if not isinstance(student.network, VoxCPMNetwork) or student.interval != "delta":
        raise UserError(
            "this student has no VoxCPM layout: its network is not VoxCPM's, or its interval is not 'delta'"
        )
    if student.guidance_input is not None:
        raise UserError("this student is told its guidance, which VoxCPM's layout has no place for")
    others = {} if base is None else dict(walk_tensors(read_foreign(Path(base)).values))
    state = {
        _PREFIX + name.split(".", 1)[1]: value.detach().cpu()
        for name, value in student.network.state_dict().items()
    }
    kept = {name: value for name, value in others.items() if name not in state}
    precise = {name: v.to(others[name].dtype) if name in others else v for name, v in state.items()}
    write_tensors(target, {**kept, **{name: v.contiguous() for name, v in precise.items()}})
    return target


def _beside(path: Path) -> Section | None:
    """``config.json`` beside a file."""
    file = path.with_name(_CONFIG)
    if not file.is_file():
        return None
    read = parse_json(read_text(file), str(file), "fetch it again")
    if not isinstance(read, Mapping) or not {"lm_config", "dit_config"} <= set(read):
        raise UserError(f"{file}: is no configuration of VoxCPM; put the checkpoint's own there")
    return read


def _sizes(config: Section) -> tuple[Plain, bool, int, int]:
    """Sizes, whether it is a student, and rate and hop of its latents, by a ``config.json``."""
    try:
        lm, dit, vae = config["lm_config"], config["dit_config"], config.get("audio_vae_config")
        rope, layers = lm["rope_scaling"], int(dit["num_layers"])
        longest, first = lm["max_position_embeddings"], rope["original_max_position_embeddings"]
        sizes = {
            "feat_dim": config.get("feat_dim", 64),
            "patch_size": config.get("patch_size", 2),
            "hidden_dim": dit["hidden_dim"],
            "ffn_dim": dit["ffn_dim"],
            "num_heads": dit["num_heads"],
            "num_layers": layers,
            "kv_channels": dit.get("kv_channels"),
            "num_key_value_heads": lm["num_key_value_heads"],
            "rms_norm_eps": lm["rms_norm_eps"],
            "residual_scale": lm["scale_depth"] / math.sqrt(layers) if lm.get("use_mup", True) else 1.0,
            "rope_theta": float(lm["rope_theta"]),
            "rope_factors": tuple(rope["long_factor" if longest > first else "short_factor"]),
            "rope_gain": math.sqrt(1 + math.log(longest / first) / math.log(first)),
            "rope": not lm.get("no_rope", False),
            "hidden_tokens": 2 if config.get("architecture", "voxcpm").lower() == "voxcpm2" else 1,
        }  # fmt: skip
        mean = bool(config.get("dit_mean_mode") or dit.get("dit_mean_mode"))
        vae = vae or {}
        return (
            sizes,
            mean,
            vae.get("sample_rate", 16000),
            math.prod(vae.get("encoder_rates", (640,))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{_CONFIG}: is no configuration of VoxCPM ({error}); fetch it again"
        ) from error


def is_voxcpm(names: Collection[str]) -> bool:
    """A local flow head with a branch for the length of the interval."""
    return any(name.endswith(_PREFIX + "delta_time_mlp.linear_1.weight") for name in names)


def voxcpm_role(place: Path) -> str:
    """A "student" where ``config.json`` beside it says ``dit_mean_mode``."""
    beside = _beside(place)
    return "student" if beside and _sizes(beside)[1] else "teacher"


def before_voxcpm(place: Path) -> str:
    """Its language model and VAE, which are not read."""
    return "none here: features mu and mel of VoxCPM's own language model and VAE"


VOXCPM = System(
    "voxcpm",
    is_voxcpm,
    read_voxcpm,
    partial(read_voxcpm, student=True),
    {"voxcpm": export_voxcpm},
    read_task,
    voxcpm_facts,
    label=KIND.label,
    licence=("apache-2.0", "the published VoxCPM weights are Apache-2.0"),
    mel=KIND,
    guidance=GUIDANCE,
    role=voxcpm_role,
    before=before_voxcpm,
)
