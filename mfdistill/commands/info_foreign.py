"""info on other systems' checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe_foreign(checkpoint: str, sizes: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Kind, role, task, network and parameters of another system's checkpoint, and for
    text-to-speech flows what can be done with it.

    Args:
        sizes: of a network whose file does not hold them, where they are not the published ones.

    Raises:
        UserError: not recognised, damaged, or of other sizes.
    """
    from mfdistill.commands.info import listed
    from mfdistill.distill.inference import open_model
    from mfdistill.errors import UserError
    from mfdistill.systems.table import mel_inputs, recognise

    place = Path(checkpoint)
    kind = recognise(place)
    if kind is not None and mel_inputs(kind) is not None:
        return describe_mel_flow(place, kind, sizes)
    if sizes is not None:
        raise UserError(
            f"--sizes: is for text-to-speech flows, and {checkpoint} is of kind {kind}; leave it out"
        )
    model = open_model(checkpoint)
    stft, network = model.task.config.stft, model.config["network"]
    facts = {
        "kind": str(kind),
        "role": model.role,
        "task": f"{model.task.config.name} at {stft.sample_rate} Hz, STFT {stft.n_fft}/{stft.hop} {stft.window}",
        "path": f"prior around {model.task.config.prior_mean}, {model.task.config.prior_shape} spread {model.task.config.sigma_0:g} to "
        f"{model.task.config.sigma_1:g}",
        "network": f"{network['name']} ({listed(network['config'])})",
        "parameters": f"{model.params:,}",
    }
    if model.config.get("schedule"):
        facts[f"schedule, {len(model.config['schedule']) - 1} NFE"] = " ".join(
            f"{t:.4g}" for t in model.config["schedule"]
        )
    return facts


def describe_mel_flow(place: Path, kind: str, sizes: Mapping[str, Any] | None) -> dict[str, str]:
    """The same for F5-TTS, CosyVoice, Matcha-TTS and Chatterbox: a file, or a folder with one."""
    from mfdistill.commands.info import listed, mel_task
    from mfdistill.config import to_dict
    from mfdistill.students import load_student
    from mfdistill.systems.files import read_foreign
    from mfdistill.systems.table import SYSTEMS
    from mfdistill.teachers import load_teacher

    system = SYSTEMS[kind]
    role = (
        "student" if system.is_student(read_foreign(system.weights(place)).names()) else "teacher"
    )
    model: Any = (load_student if role == "student" else load_teacher)(place, kind, config=sizes)
    network = model.config["network"]
    facts = {
        "kind": kind,
        "role": role,
        "task": mel_task(to_dict(model.task.config)),
        "network": f"{network['name']} ({listed(network['config'])})",
        "parameters": f"{sum(p.numel() for p in model.network.parameters()):,}",
        "front end": front_end(place, kind),
        "guidance": guidance_of(role, model),
    }
    if role == "student":
        times = " ".join(f"{t:.4g}" for t in model.schedule)
        facts[f"schedule, {len(model.schedule) - 1} NFE"] = (
            f"{times} (the usual one; the file holds none)"
        )
    return facts | {"next": next_steps(str(place), kind, role)}


def front_end(place: Path, kind: str) -> str:
    """What comes before the flow, and whether it is there."""
    from mfdistill.systems.cosyvoice_front import has_front
    from mfdistill.systems.f5 import VOCAB
    from mfdistill.systems.table import mel_inputs

    folder = place if place.is_dir() else place.parent
    inputs = mel_inputs(kind)
    assert inputs is not None
    if inputs.reads == "text":
        return f"symbols of {VOCAB}, " + (
            "beside it"
            if (folder / VOCAB).is_file()
            else "which is not beside it: give --tts.vocab"
        )
    if inputs.reads == "symbols":
        return "features tokens: numbers of symbols by its own tokenizer"
    if inputs.reads == "mu":
        return "none here: features mu of its own encoder"
    return (
        "speech tokens and speaker, in it"
        if has_front(place)
        else "none in it: features mu and spks, or --tts.front FILE"
    )


def guidance_of(role: str, model: Any) -> str:
    if role == "student":
        told = model.guidance_input
        return "none: part of what it learnt" if told is None else f"an input, up to {told:g}"
    return (
        "none: trained without a null condition"
        if model.facts.null is None
        else f"strength {model.guidance_strength:g}, changed by --guidance.strength"
    )


def next_steps(place: str, kind: str, role: str, ours: bool = False) -> str:
    """Commands that take it; ``ours``: a folder of this program."""
    from mfdistill.systems.table import SYSTEMS as KINDS

    layout = next(iter(KINDS[kind].layouts), None)
    if role == "student" and ours and layout:
        return f"mfdistill export {place} FILE --layout {layout}: docs/foreign-tts.md"
    if role == "student":
        return (
            "load_student in Python"
            + ("" if ours else ", or the program that serves it")
            + ": docs/foreign-tts.md"
        )
    from mfdistill.commands.tts_options import SYSTEMS

    preset = next((f" --preset {name}" for name, kinds in SYSTEMS.items() if kind in kinds), "")
    return f"mfdistill student-distill --teacher {place} --data FOLDER{preset}: docs/foreign-tts.md"
