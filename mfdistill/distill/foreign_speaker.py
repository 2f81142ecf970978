"""Students and teachers of other systems' Mel flows, from their folders, ready to be sampled for
speech.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.checkpoint import load_config
from mfdistill.distill.inference import Endpoint, Model, Steps
from mfdistill.errors import UserError
from mfdistill.flow import solve
from mfdistill.places import resolve
from mfdistill.students import load_student, sample
from mfdistill.systems.f5 import GUIDANCE
from mfdistill.systems.table import mel_inputs
from mfdistill.teachers import load_teacher


def foreign_kind(path: str | Path) -> str | None:
    """The kind of a folder of another system's student or teacher; None for other folders, files
    and what is not there.
    """
    place = Path(path).parent if Path(path).name == "config.json" else Path(path)
    if not (place / "config.json").is_file():
        return None
    kind = (load_config(place).get("task") or {}).get("name")
    return kind if mel_inputs(kind) is not None else None


def open_speaker(
    path: str | Path, device: torch.device | str = "cpu", guidance: float | None = None
) -> Model:
    """A student along its own schedule, without guidance unless it is told some; a teacher along
    its system's grid (F5-TTS: 32 steps,
    CosyVoice: 10) with guidance. ``module`` is the network.

    Args:
        guidance: strength, of a teacher (None: the folder's) or of a student that is told it (None:
            2 where that is in its range).

    Raises:
        UserError: no such folder, a damaged one, or guidance for a student that has none.
    """
    place = resolve(path)
    config = load_config(place)
    if config.get("role") == "student":
        student = load_student(place, device=device)
        strength = _told(config, student.guidance_input, guidance, place)

        def along(z_0: Tensor, cond: Mapping[str, Tensor], steps: Steps | None) -> Tensor:
            told = (
                {}
                if strength is None
                else {"guidance": torch.full((len(z_0),), strength, device=z_0.device)}
            )
            return sample(student, z_0, {**cond, **told}, steps)

        return Model("student", student.task, student, along, config)  # type: ignore[arg-type]
    teacher: Any = load_teacher(place, device=device, guidance_strength=guidance)
    return Model("teacher", teacher.task, teacher.network, _solved(teacher), config)


def _solved(teacher: Any) -> Endpoint:
    def run(z_0: Tensor, cond: Mapping[str, Tensor], steps: Steps | None) -> Tensor:
        times: Steps = teacher.facts.steps if steps is None else steps
        if isinstance(times, int):
            times = teacher.facts.grid(times)
        return solve(lambda z, t: teacher.velocity(z, t, cond), z_0, times, "euler")

    return run


def _told(
    config: Mapping[str, Any], limit: float | None, guidance: float | None, place: Path
) -> float | None:
    """The strength that a student is told, or None."""
    if limit is None:
        if guidance is not None:
            raise UserError(
                f"--guidance {guidance:g}: {place} has its guidance learnt and is told none; leave it out"
            )
        return None
    low, high = (config.get("guidance") or {}).get("range") or (0.0, limit)
    strength = GUIDANCE if guidance is None else guidance
    if not low <= strength <= high:
        raise UserError(
            f"--guidance {strength:g}: {place} was trained with strengths from {low:g} to {high:g}; give one of these"
        )
    return strength


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device
