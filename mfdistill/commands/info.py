"""info."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mfdistill.commands.options import read_sizes
from mfdistill.companions import companion, named_companions
from mfdistill.errors import UserError
from mfdistill.integrity import check_folder, recorded
from mfdistill.plain import Plain, Section
from mfdistill.version import __version__
from mfdistill.weights import tensor_sizes


@dataclass(frozen=True)
class Info:
    """What a checkpoint is, or, without one, which versions are installed and what this machine
    computes on.
    """

    checkpoint: Positional[str | None] = None
    """A model's folder, or a checkpoint of another system."""
    sizes: str | None = None
    """JSON file with the sizes of another system's text-to-speech network, where they are not the
    published ones.
    """


def run(command: Info) -> dict[str, str]:
    """Print and return the facts.

    Raises:
        UserError: no checkpoint there, a damaged one, or sizes that do not fit it.
    """
    from rich.console import Console
    from rich.table import Table

    facts = (
        _versions() if command.checkpoint is None else describe(command.checkpoint, command.sizes)
    )
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for key, value in facts.items():
        shown.add_row(key, value)
    Console(highlight=False).print(shown)
    return facts


def describe(checkpoint: str, sizes: str | None = None) -> dict[str, str]:
    """Role, task, network, parameters, schedules and history of a model folder, without loading its
    weights; or of a foreign file.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.places import resolve

    if not Path(checkpoint).exists():
        checkpoint = str(resolve(checkpoint))
    if _is_foreign(Path(checkpoint)):
        return describe_file(Path(checkpoint), read_sizes(sizes))
    if sizes is not None:
        raise UserError(f"--sizes {sizes}: {checkpoint} holds its own; leave it out")
    config = load_config(checkpoint)
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
    task, training, parent = (config.get(key) or {} for key in ("task", "training", "parent"))
    network, objective = (config.get(key) or {} for key in ("network", "objective"))
    weights, front = folder / "model.safetensors", config.get("predictor") or {}
    adapter = config.get("adapter") or {}
    if adapter:
        weights = folder / "adapter_model.safetensors"
    files = recorded(folder / "config.json")
    check_folder(folder, files or {weights.name: ""})
    beside = [name for name in named_companions(folder) if companion(folder, name)]
    own_count, front_count = parameters(weights)
    own_times = config.get("schedule")
    schedules = {len(own_times) - 1: own_times} if isinstance(own_times, list) else {}
    schedules |= {int(nfe): times for nfe, times in (config.get("schedules") or {}).items()}
    searched = config.get("schedules") or {}
    facts = {
        "role": str(config.get("role")),
        **({"kind": config.get("kind") or ""} if "mel" in task else {}),
        **task_facts(task),
        "network": f"{network.get('name')} ({listed(network.get('config') or {})})",
        "adapter": f"{listed(adapter)}; its teacher is needed, or: mfdistill merge" if adapter else "",
        "parameters": f"{own_count:,}",
        "files": ", ".join(f"{name} as written" for name in [*files, *beside]) or "no checksums: written before there were any",
        "predictor": _predictor(front, front_count) if front else "",
        "objective": f"{objective.get('name')} ({listed({k: v for k, v in objective.items() if k != 'name'})})" if objective else "",
        "data": str((config.get("data") or {}).get("source", "")),
        "training": f"{training.get('step')} of {training.get('steps')} updates of {training.get('batch_size')}, "
        f"{training.get('hours', 0):.2f} h" if training else "",
        "guidance": _guidance(config),
        "parent": listed(parent) if isinstance(parent, Mapping) else str(parent),
    }  # fmt: skip
    for nfe, times in sorted(schedules.items()):
        facts[f"schedule, {nfe} NFE"] = " ".join(f"{t:.4g}" for t in times) + (
            " (searched)" if str(nfe) in searched else ""
        )
    if "mel" in task:
        facts |= speech_facts(folder, str(task.get("name")), str(config.get("role")), checkpoint)
    return {key: value for key, value in facts.items() if value}


def _is_foreign(place: Path) -> bool:
    """A file other than a config.json, or a folder of F5-TTS or CosyVoice."""
    if not place.is_dir() or (place / "config.json").is_file():
        return place.is_file() and place.name != "config.json"
    from mfdistill.systems.table import recognise

    return recognise(place) is not None


def _guidance(config: Section) -> str:
    if (largest := config.get("guidance_input")) is not None:
        return f"an input, strength up to {largest:g}"
    parent = config.get("parent")
    strength = config.get(
        "guidance_strength",
        parent.get("guidance_strength") if isinstance(parent, Mapping) else None,
    )
    return f"strength {strength:g}" if isinstance(strength, (int, float)) else ""


def describe_file(place: Path, sizes: Section | None) -> dict[str, str]:
    """Kind, role, task, network and parameters of another system's checkpoint, a file or a folder
    with one, and of text-to-speech flows what can be done with it.

    Args:
        sizes: of a network whose file does not hold them, where they are not the published ones.

    Raises:
        UserError: not recognised, damaged, or of other sizes.
    """
    from mfdistill.config import to_dict
    from mfdistill.students import load_student
    from mfdistill.systems.table import SYSTEMS, recognise, role_of
    from mfdistill.teachers import load_teacher

    kind, role = str(recognise(place)), role_of(place)
    mel = SYSTEMS[kind].mel if kind in SYSTEMS else None
    if sizes is not None and mel is None:
        raise UserError(
            f"--sizes: is for text-to-speech flows, and {place} is of kind {kind}; leave it out"
        )
    config: Plain
    if role == "student":
        student = load_student(place, kind, config=sizes)
        network, task, config, strength = student, student.task, student.config, 0.0
    else:
        teacher = load_teacher(place, kind if role else None, config=sizes)
        network, task, config = teacher.network, teacher.task, teacher.config
        strength = teacher.guidance_strength
    if task is not None and task.predictor is not None:
        front = sum(p.numel() for p in task.predictor.parameters())
    else:
        front = 0
    section = config["network"]
    facts = {
        "kind": kind,
        "role": str(role),
        **({} if task is None else task_facts(to_dict(task.config))),
        "network": f"{section['name']} ({listed(section['config'])})",
        "parameters": f"{front + sum(p.numel() for p in network.parameters()):,}",
    }
    if times := config.get("schedule"):
        usual = " (the usual one; the file holds none)" if mel is not None else ""
        facts[f"schedule, {len(times) - 1} NFE"] = " ".join(f"{t:.4g}" for t in times) + usual
    if mel is None:
        return facts
    told = config.get("guidance_input")
    guidance = "none: part of what it learnt" if told is None else f"an input, up to {told:g}"
    if role != "student":
        none = SYSTEMS[kind].guidance is None
        own = f"strength {strength:g}, changed by --guidance.strength"
        guidance = "none: trained without a null condition" if none else own
    return facts | speech_facts(place, kind, str(role)) | {"guidance": guidance}


def task_facts(task: Section) -> dict[str, str]:
    """Of the section "task" of a ``config.json``."""
    if "mel" in task:
        mel = task["mel"]
        bands = f"{mel.get('n_mels')} Mel bands at {mel.get('sample_rate')} Hz"
        return {"task": f"{task.get('name')}, {bands}, windows {mel.get('n_fft')}/{mel.get('hop')}"}
    stft = task.get("stft") or {}
    frames = f"STFT {stft.get('n_fft')}/{stft.get('hop')} {stft.get('window')}"
    return {
        "task": f"{task.get('name')} at {stft.get('sample_rate')} Hz, {frames}",
        "path": f"prior around {task.get('prior_mean')}, {task.get('prior_shape')} spread "
        f"{task.get('sigma_0')} to {task.get('sigma_1')}",
    }


def speech_facts(place: Path, kind: str, role: str, folder: str | None = None) -> dict[str, str]:
    """What comes before a text-to-speech flow, and the commands that take it; ``folder``: of this
    program, as it was named.
    """
    from mfdistill.commands.recipe_table import preset_for
    from mfdistill.systems.table import SYSTEMS

    system = SYSTEMS[kind]
    layout = next(iter(system.layouts), None)
    if role == "student" and folder is not None and layout is not None:
        after = f"mfdistill export {folder} FILE --layout {layout}"
    elif role == "student":
        served = "" if folder is not None else ", or the program that serves it"
        after = f"load_student in Python{served}"
    else:
        preset = f" --preset {name}" if (name := preset_for(kind)) else ""
        after = f"mfdistill student-distill --teacher {folder or place} --data FOLDER{preset}"
    return {"front end": system.before(place), "next": f"{after}: docs/foreign-tts.md"}


def _predictor(section: Section, count: int | None) -> str:
    network = section.get("network") or {}
    size = "" if count is None else f"{count:,} parameters, "
    sizes = listed(network.get("config") or {})
    return f"{network.get('name')} ({sizes}), {size}around {section.get('prior_mean')}, from {section.get('source')}"


def parameters(file: Path) -> tuple[int, int]:
    """Numbers in a safetensors file, from its header alone: of the model, and of the predictor in
    front of it.

    Raises:
        UserError: damaged.
    """
    counts = [0, 0]
    for name, size in tensor_sizes(file).items():
        counts[name.startswith("predictor.")] += size
    return counts[0], counts[1]


def _versions() -> dict[str, str]:
    import torch

    from mfdistill.audio.resample import torchaudio_fault
    from mfdistill.extras import OPTIONAL
    from mfdistill.metrics import METRICS

    facts = {
        "mfdistill": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    facts["torchaudio"] = torchaudio_fault() or _version("torchaudio")
    for name in ("accelerate", "safetensors", "datasets", "tyro"):
        facts[name] = _version(name)
    packages = dict.fromkeys(
        OPTIONAL[metric.modules[0]][0] for metric in METRICS.values() if metric.modules
    )
    facts["metrics"] = ", ".join(f"{name} {_version(name)}" for name in packages)
    facts["embedded corpus"] = "espeakng-loader " + _version("espeakng-loader")
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return facts | {"computes on": device}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def listed(values: Section) -> str:
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            parts.append(f"{key}: {listed(value)}")
        elif value is not None:
            parts.append(f"{key} {value[:12] if key == 'sha256' else value}")
    return ", ".join(parts)
