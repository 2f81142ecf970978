"""ZipVoice (arXiv 2506.13053): its teacher, and ZipVoice-Distill as a student that is told its
guidance; students in its layout.

A student's file has ZipVoice's names. Of one step it is ZipVoice's own file: the embedding of the
one interval is folded into the time network's last layer, and the original's program runs it with
``--num-step 1 --guidance-scale 0``. Of more steps it has one tensor more,
``fm_decoder.time_embed_mixer.weight`` (d, 2 d), applied after the time network; its first d columns
multiply the current time's embedding, the others the destination's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.checkpoint import write_pickle, write_tensors
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.networks.zipvoice import ZipVoiceNetwork
from mfdistill.networks.zipvoice_config import ZipVoiceConfig
from mfdistill.plain import Plain, Section
from mfdistill.reading import read_lines, read_text
from mfdistill.systems.base import (
    SIZES,
    Cond,
    FieldFacts,
    Misfit,
    Opened,
    System,
    TwoTimes,
    check_fit,
    no_files,
    no_stream,
)
from mfdistill.systems.files import MIXER, read_foreign
from mfdistill.tasks.foreign import MelKind, mel_flow, read_mel_flow

GUIDANCE, STEPS = 1.0, 16
DISTILLED_GUIDANCE, DISTILLED_STEPS = 3.0, 8  # of ZipVoice-Distill, which learnt up to it
TOKENS, SIZES_FILE = "tokens.txt", "model.json"
_PAD = "_"
_SHIFT = 0.5
_DECODER, _TIME, _STRENGTH = "fm_decoder.", "fm_decoder.time_embed.", "guidance_scale_embed.weight"
KIND = MelKind(
    "zipvoice", "ZipVoice", SpeechMelConfig(scale="htk", floor=1e-7, rounded=True), "symbols",
    frames_first=True,
)  # fmt: skip
_LEVEL = 10.0  # its features are log-Mels times 0.1


def zipvoice_times(steps: int, shift: float = _SHIFT) -> list[float]:
    """Its sampler's times: ``shift t / (1 + (shift - 1) t)`` of an equal grid."""
    grid = (i / steps for i in range(steps + 1))
    return [shift * t / (1 + (shift - 1) * t) for t in grid]


def without_text(cond: Cond, t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Its null condition: no text up to t = 0.5, neither text nor prompt after it."""
    given = {key: value for key, value in cond.items() if value is not None}
    kept = torch.zeros_like(t, dtype=torch.bool)
    given = {"drop_audio": kept, "drop_text": kept, **given}
    return given, {**given, "drop_audio": given["drop_audio"] | (t > 0.5), "drop_text": ~kept}


def _twice_at_first(t: Tensor) -> Tensor:
    return torch.where(t > 0.5, 1.0, 2.0)


def zipvoice_facts(network: nn.Module) -> FieldFacts:
    """Of a network of ZipVoice; up to t = 0.5 its sampler guides with twice the strength."""
    return FieldFacts(
        1.0, True, zipvoice_times, STEPS, without_text, None, "it attends to all frames", _twice_at_first
    )  # fmt: skip


def read_zipvoice(
    path: Path, config: Section | None, streaming: bool, student: bool = False
) -> Opened:
    """A teacher (guidance 1, 16 steps), or a student: ZipVoice-Distill (told its guidance, up to 3;
    8 steps; its ``r`` has no meaning yet), or what ``export_zipvoice`` wrote for several steps.

    Args:
        path: ``model.pt``, a ``.safetensors``, or a folder with one.
        config: sizes (``ZipVoiceConfig``) where neither ``model.json`` beside the file says them
            nor are they the published ones.
    """
    if streaming:
        raise no_stream(path, "zipvoice", "it attends to all frames")
    file = weights_file(path)
    tensors = own_names(zipvoice_tensors(file))
    mixer = tensors.pop(MIXER, None)
    told = "time_embed.guidance.weight" in tensors
    if (told or mixer is not None) != student:
        other = ("teacher", "load_teacher") if student else ("student", "load_student")
        raise UserError(f"{file}: is a {other[0]}; load it with {other[1]}(kind='zipvoice')")
    sizes = from_dict(
        ZipVoiceConfig, {**_sizes_beside(file, tensors), **(config or {})}, f"{path}: config"
    )
    with torch.device("meta"):
        network = ZipVoiceNetwork(sizes)
    check_fit(network.state_dict(), tensors, path, "zipvoice", _DECODER)
    network.to_empty(device="cpu").load_state_dict(tensors)
    saved = {
        "role": "teacher",
        "kind": "zipvoice",
        "network": {"name": "zipvoice", "config": to_dict(sizes)},
        "guidance_strength": GUIDANCE,
        "schedule": None,
        "parent": {"file": str(path), "kind": "zipvoice"},
    }
    return Opened(
        network,
        mel_flow(KIND, sizes.feat_dim, mel_std=_LEVEL),
        zipvoice_facts(network),
        saved,
        GUIDANCE,
        zipvoice_times(DISTILLED_STEPS) if told else 2,
        "mixed",
        mixer,
        DISTILLED_GUIDANCE if told else None,
    )


def weights_file(place: Path) -> Path:
    """The file itself, or a folder's ``model.safetensors`` or ``model.pt``.

    Raises:
        UserError: a folder with neither.
    """
    if not place.is_dir():
        return place
    for name in ("model.safetensors", "model.pt"):
        if (place / name).is_file():
            return place / name
    raise UserError(f"{place}: has neither model.pt nor model.safetensors; name the file itself")


def zipvoice_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a file, in its section "model" or not, by the original's names.

    Raises:
        UserError: unreadable, or none of ZipVoice in it.
    """
    file = read_foreign(path)
    found = file.tensors("model") or file.tensors()
    if not any(name.startswith(_DECODER) for name in found):
        raise Misfit(f"{path}: has no tensors named {_DECODER}*", SIZES, file.names())
    return found


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's tensors by the names of ``ZipVoiceNetwork``; a mixer is ``MIXER``."""

    def own(name: str) -> str:
        if name == _DECODER + _STRENGTH:
            return "time_embed.guidance.weight"
        if name == _DECODER + MIXER:
            return MIXER
        return name.replace(_TIME, "time_embed.net.") if name.startswith(_TIME) else name

    return {own(name): value for name, value in tensors.items()}


def export_zipvoice(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> Path:
    """Write a student as ZipVoice's ``.pt`` or ``.safetensors`` (see above); ``model.json`` and
    ``tokens.txt`` are the teacher's.

    Raises:
        UserError: a student of another network or interval, one of one step that is told its
            guidance, another ending, a base, which this layout does not take, a disk that is full.
    """
    target, network = Path(path), student.network
    if base is not None:
        raise UserError("--base: layout zipvoice takes no other tensors; leave it out")
    if target.suffix not in (".safetensors", ".pt"):
        raise UserError(f"{target}: ZipVoice reads .safetensors and .pt files; give such an ending")
    told = student.guidance_input is not None
    if not isinstance(network, ZipVoiceNetwork) or student.interval != "mixed":
        raise UserError(
            "this student has no ZipVoice layout: its network is not ZipVoice's, or its interval is not 'mixed'"
        )
    if told and not network.config.guidance:
        raise UserError(
            "this student is told its guidance in a way that ZipVoice's layout has no place for; distil with "
            "--guidance.strength instead of --guidance.range"
        )
    own = network.state_dict()
    mixer = own.pop("time_embed.weight")
    tensors = {name.replace("time_embed.embedding.", "time_embed."): v for name, v in own.items()}
    start = torch.eye(*mixer.shape, dtype=mixer.dtype, device=mixer.device)
    if student.schedule == [0.0, 1.0] and not told:
        with torch.no_grad():
            tensors["time_embed.net.2.bias"] = network.time_embed(mixer.new_tensor([[0.0, 1.0]]))[0]
        tensors["time_embed.net.2.weight"] = torch.zeros_like(tensors["time_embed.net.2.weight"])
    elif not (told and torch.equal(mixer, start)):
        tensors[MIXER] = mixer
    theirs = {_official(name): v.detach().cpu().contiguous().clone() for name, v in tensors.items()}
    if target.suffix == ".safetensors":
        write_tensors(target, theirs)
    else:
        write_pickle(target, {"model": theirs})
    return target


def _official(name: str) -> str:
    if name == MIXER:
        return _DECODER + MIXER
    if name == "time_embed.guidance.weight":
        return _DECODER + _STRENGTH
    return name.replace("time_embed.net.", _TIME) if name.startswith("time_embed.net.") else name


def _sizes_beside(file: Path, tensors: Mapping[str, Tensor]) -> Plain:
    """Sizes that ``model.json`` beside a file says, its vocabulary's, and the padding symbol."""
    found: Plain = {}
    beside = file.with_name(SIZES_FILE)
    if beside.is_file():
        try:
            found = dict(json.loads(read_text(beside))["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{beside}: is no configuration of ZipVoice ({error}); fetch it again"
            ) from error
    if "embed.weight" in tensors:
        found["vocab_size"] = len(tensors["embed.weight"])
    tokens = file.with_name(TOKENS)
    if tokens.is_file():
        cells = (line.split("\t") for _, line in read_lines(tokens))
        pads = [row[1] for row in cells if len(row) == 2 and row[0] == _PAD]
        if len(pads) != 1 or not pads[0].isdecimal():
            raise UserError(f"{tokens}: has no line '{_PAD}', tab and number; fetch it again")
        found["pad_id"] = int(pads[0])
    return {**found, "guidance": "time_embed.guidance.weight" in tensors}


def zipvoice_files(place: Path, network: nn.Module, given: Path | None) -> dict[str, bytes]:
    """``tokens.txt`` and ``model.json`` beside the checkpoint, where they are there."""
    no_files(place, network, given)
    folder = place if place.is_dir() else place.parent
    files = (folder / name for name in (TOKENS, SIZES_FILE))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def is_zipvoice(names: Collection[str]) -> bool:
    """A flow decoder of Zipformer layers."""
    leaf = "fm_decoder.encoders.0.layers.0.norm.log_scale"
    return any(name == leaf or name.endswith(f".{leaf}") for name in names)


def zipvoice_role(place: Path) -> str:
    """A file that is told its guidance, or has a mixer of two times, is a "student"."""
    names = read_foreign(weights_file(place)).names()
    return "student" if any(name.endswith((MIXER, _STRENGTH)) for name in names) else "teacher"


def before_zipvoice(place: Path) -> str:
    """Its texts become symbols in its own program."""
    return "features tokens: numbers of symbols by its own tokenizer"


ZIPVOICE = System(
    "zipvoice",
    is_zipvoice,
    read_zipvoice,
    partial(read_zipvoice, student=True),
    {"zipvoice": export_zipvoice},
    partial(read_mel_flow, KIND),
    zipvoice_facts,
    zipvoice_files,
    folders=True,
    label=KIND.label,
    licence=("apache-2.0", "the published ZipVoice weights are Apache-2.0"),
    mel=KIND,
    guidance=GUIDANCE,
    published=ZipVoiceConfig(),
    role=zipvoice_role,
    before=before_zipvoice,
)
