"""F5-TTS checkpoints (DiT and UNetT, arXiv 2410.06885): guidance, noise, weights out of its files,
and students in its
layout: ``ema_model.transformer.*`` with one tensor more, the mixer of two times.

``ema_model.transformer.time_embed_mixer.weight`` (d, 2 d) is applied after the time network; its
first d columns multiply the current time's embedding, the others the destination's. Without it the
file has the teacher's names and loads strictly into f5-tts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mfdistill.audio.speech_mel import SpeechMelConfig
from mfdistill.checkpoint import write_pickle, write_tensors
from mfdistill.config import from_dict, to_dict
from mfdistill.errors import UserError
from mfdistill.flow import f5_times
from mfdistill.networks.dit_config import F5Config, F5UNetTConfig
from mfdistill.networks.f5 import F5Network
from mfdistill.plain import Section
from mfdistill.reading import read_text
from mfdistill.systems.base import (
    SIZES,
    Cond,
    FieldFacts,
    Misfit,
    Opened,
    System,
    TwoTimes,
    check_fit,
    chosen_weights,
    no_stream,
)
from mfdistill.systems.files import MIXER, Foreign, mixed_role, read_foreign
from mfdistill.tasks.foreign import MelKind, mel_flow, read_mel_flow

GUIDANCE = 2.0
VOCAB = "vocab.txt"
_STEPS = 3  # of a student, on a uniform grid, where the file is all there is
_CONFIGS: dict[str, type[F5Config] | type[F5UNetTConfig]] = {
    "f5": F5Config,
    "f5-unett": F5UNetTConfig,
}
# for Vocos, charactr/vocos-mel-24khz
_F5 = MelKind("f5", "F5-TTS", SpeechMelConfig(scale="htk"), "text", frames_first=True)
KINDS = {"f5": _F5, "f5-unett": replace(_F5, name="f5-unett", label="E2-TTS")}
_BOOKKEEPING = ("initted", "step", "update")


def without_prompt_and_text(cond: Cond, t: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """F5-TTS's null condition: neither prompt nor text, but the text's length where the network
    masks its padding.
    """
    given = {key: value for key, value in cond.items() if value is not None}
    device = given["cond"].device
    kept, dropped = (torch.full((len(t),), drop, device=device) for drop in (False, True))
    drops = ("drop_audio", "drop_text")
    return (
        {**given, **{key: given.get(key, kept) for key in drops}},
        {**given, **dict.fromkeys(drops, dropped)},
    )


def f5_facts(network: nn.Module) -> FieldFacts:
    """Of a network of F5-TTS."""
    return FieldFacts(
        1.0, True, f5_times, 32, without_prompt_and_text, None, "it attends to all frames"
    )


def read_f5(
    kind: str,
    path: Path,
    config: Section | None,
    streaming: bool,
    student: bool = False,
) -> Opened:
    """A teacher from an F5-TTS checkpoint of ``kind`` "f5" (DiT) or "f5-unett" (UNetT, E2-TTS), or
    a student that ``export_f5`` wrote, whose steps are three equal ones. The teacher's guidance is
    2 (a scale of 3).

    Args:
        path: a published ``.safetensors`` or a training file ``.pt``.
        config: sizes and switches where they are not those of F5TTS_v1_Base or E2TTS_Base
            (``F5Config``, ``F5UNetTConfig``; the file holds none), and ``weights``: "ema" (the
            default) or "raw", which only training files have.
    """
    if streaming:
        raise no_stream(path, kind, "it attends to all frames")
    given = dict(config or {})
    weights = chosen_weights(given, path)
    sizes = from_dict(_CONFIGS[kind], given, f"{path}: config")
    with torch.device("meta"):  # published sizes take seconds and 1.3 GB to fill at random
        network = F5Network(sizes)
    tensors = f5_tensors(read_foreign(checkpoint_of(path)), weights)
    if MIXER in tensors and not student:
        raise UserError(
            f"{path}: has {MIXER}, so it is a student of two times; load it with load_student(kind='{kind}')"
        )
    if student and MIXER not in tensors:
        raise UserError(
            f"{path}: lacks {MIXER}, so it is no student; load it with load_teacher(kind='{kind}')"
        )
    mixer = tensors.pop(MIXER, None)
    check_fit(network.transformer.state_dict(), tensors, path, kind, "", _looks(tensors))
    network.transformer.to_empty(device="cpu").load_state_dict(dict(tensors))
    saved = {
        "role": "teacher",
        "kind": kind,
        "network": {"name": kind.replace("-", "_"), "config": to_dict(sizes)},
        "guidance_strength": GUIDANCE,
        "schedule": None,
        "parent": {"file": str(path), "kind": kind, "weights": weights},
    }
    task, facts = mel_flow(KINDS[kind], sizes.mel_dim), f5_facts(network)
    return Opened(network, task, facts, saved, GUIDANCE, _STEPS, "mixed", mixer)


def export_f5(student: TwoTimes, path: str | Path, base: str | Path | None = None) -> Path:
    """Write a student as F5-TTS's ``.safetensors``, or as its training file ``.pt``
    (``ema_model_state_dict``).

    Raises:
        UserError: a student of another network, one that is told its guidance, another ending, a
            base, which this layout does not take, a disk that is full.
    """
    target = Path(path)
    if base is not None:
        raise UserError("--base: layout f5 takes no other tensors; leave it out")
    if target.suffix not in (".safetensors", ".pt"):
        raise UserError(
            f"{target}: F5-TTS reads .safetensors and .pt files; give the file one of these endings"
        )
    tensors = {
        f"ema_model.transformer.{name}": value.detach().cpu().clone()
        for name, value in transformer_state(student).items()
    }
    tensors |= {"initted": torch.tensor(True), "step": torch.tensor(0)}
    if target.suffix == ".safetensors":
        write_tensors(target, tensors)
    else:
        write_pickle(target, {"ema_model_state_dict": tensors, "update": 0})
    return target


def transformer_state(student: TwoTimes) -> dict[str, Tensor]:
    """The tensors of a student's transformer by F5-TTS's names, with the mixer; of a live f5-tts
    module too.

    Raises:
        UserError: another network, or another embedding of the interval.
    """
    leaf = "time_embed"
    name = str(student.network.time_embedding_name)
    if (
        student.interval != "mixed"
        or student.guidance_input is not None
        or name != f"transformer.{leaf}"
    ):
        raise UserError(
            "this student has no F5-TTS layout: its network is not F5-TTS's, its interval is not 'mixed', or it is told its "
            "guidance"
        )
    own = student.network.get_submodule("transformer").state_dict()
    return {
        MIXER
        if ours == f"{leaf}.weight"
        else ours.replace(f"{leaf}.embedding.", f"{leaf}.", 1): value
        for ours, value in own.items()
    }


def f5_tensors(file: Foreign, weights: str = "ema") -> dict[str, Tensor]:
    """The transformer's tensors by its own names: those of the moving average ("ema") or the
    trained ones ("raw"), without prefixes, bookkeeping, and the Mel front end's buffers that old
    files have.

    Raises:
        UserError: the file lacks the one asked for.
    """
    averaged, raw, flat = (
        file.tensors("ema_model_state_dict"),
        file.tensors("model_state_dict"),
        file.tensors(),
    )
    if any(name.startswith("ema_model.") for name in flat):
        averaged = flat
    elif not averaged and not raw:
        raw = flat
        # an export of either: which one it does not say
        averaged = flat if weights == "ema" else {}
    found = averaged if weights == "ema" else raw
    if not averaged and not raw:
        raise Misfit(f"{file.path}: has no weights where F5-TTS has them", SIZES, file.names())
    if not found:
        other = (
            "the moving average only; ask for weights 'ema' (in --sizes), or leave it out"
            if averaged
            else 'trained weights only; ask for them: --sizes FILE with {"weights": "raw"}'
        )
        raise UserError(f"{file.path}: has {other}")
    tensors = {
        name.removeprefix("ema_model.").removeprefix("module."): value
        for name, value in found.items()
    }
    tensors = {
        name: value
        for name, value in tensors.items()
        if name not in _BOOKKEEPING and not name.startswith("mel_spec.")
    }
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


def is_f5(names: Collection[str]) -> bool:
    """An F5-TTS DiT."""
    return _has(names, "text_embed.text_embed.weight") and _has(
        names, "transformer_blocks.0.attn_norm.linear.weight"
    )


def is_f5_unett(names: Collection[str]) -> bool:
    """An F5-TTS UNetT."""
    return _has(names, "text_embed.text_embed.weight") and _has(names, "layers.0.2.to_q.weight")


def _has(names: Collection[str], leaf: str) -> bool:
    return any(name == leaf or name.endswith(f"transformer.{leaf}") for name in names)


def checkpoint_of(path: Path) -> Path:
    """The file itself, or the one checkpoint of a folder."""
    if not path.is_dir():
        return path
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix in (".safetensors", ".pt") and not file.name.startswith(".")
    )
    if len(files) != 1:
        raise UserError(
            f"{path}: has {len(files)} checkpoints (.safetensors, .pt); name one of them"
        )
    return files[0]


def _looks(tensors: Mapping[str, Tensor]) -> str:
    """What can be told from weights, for messages; nothing where they are not of F5-TTS."""
    proj, table = tensors.get("proj_out.weight"), tensors.get("text_embed.text_embed.weight")
    kind = "f5" if is_f5(tensors) else "f5-unett" if is_f5_unett(tensors) else None
    if kind is None or proj is None or table is None or proj.ndim != 2 or table.ndim != 2:
        return ""
    blocks = {
        name.split(".")[1]
        for name in tensors
        if name.startswith(("transformer_blocks.", "layers."))
    }
    return (
        f"it looks like kind {kind} of dim {proj.shape[1]}, depth {len(blocks)}, mel_dim {proj.shape[0]}, "
        f"text_num_embeds {table.shape[0] - 1}, text_dim {table.shape[1]}"
    )


def vocabulary_file(place: Path, network: nn.Module, given: Path | None = None) -> dict[str, bytes]:
    """``vocab.txt``, ``given`` or beside the checkpoint; nothing where it is not there.

    Raises:
        UserError: no such file, or of another size than the checkpoint's table.
    """
    file = given or (place if place.is_dir() else place.parent) / VOCAB
    if not file.is_file():
        if given is not None:
            raise UserError(f"--vocab {given}: no such file")
        return {}
    assert isinstance(network, F5Network)
    text, size = read_text(file), network.config.text_num_embeds
    count = text.removesuffix("\n").count("\n") + 1 if text else 0
    if count != size:
        raise UserError(
            f"--vocab {file}: has {count} symbols, the checkpoint's table {size}; take the vocab.txt that belongs to this "
            "checkpoint"
        )
    return {VOCAB: text.encode()}


def before_f5(place: Path) -> str:
    """Where the texts' vocabulary is."""
    there = ((place if place.is_dir() else place.parent) / VOCAB).is_file()
    where = "beside it" if there else "which is not beside it: give --tts.vocab"
    return f"symbols of {VOCAB}, {where}"


def _system(kind: str, recognise: Callable[[Collection[str]], bool], weights: str) -> System:
    return System(
        kind,
        recognise,
        partial(read_f5, kind),
        partial(read_f5, kind, student=True),
        {"f5": export_f5},
        partial(read_mel_flow, KINDS[kind]),
        f5_facts,
        vocabulary_file,
        folders=True,
        label=KINDS[kind].label,
        licence=("cc-by-nc-4.0", f"the published {weights} weights are CC BY-NC 4.0"),
        mel=KINDS[kind],
        guidance=GUIDANCE,
        published=_CONFIGS[kind](),
        role=lambda place: mixed_role(checkpoint_of(place)),
        before=before_f5,
    )


F5 = _system("f5", is_f5, "F5-TTS")
F5_UNETT = _system("f5-unett", is_f5_unett, "F5-TTS and E2-TTS")
