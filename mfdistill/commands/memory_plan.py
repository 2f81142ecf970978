"""student-distill before anything is loaded: which system a teacher is of, and with --plan the
memory, disk and frames that fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.commands.options import read_sizes
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.student_distill import StudentDistill
    from mfdistill.distill.memory import MemoryNeed, Setup
    from mfdistill.plain import Section
    from mfdistill.systems.base import System

CARDS_GB = (12, 24, 80)


def tell_need(setup: Setup, frames: int) -> MemoryNeed:
    """Tell what a distillation in micro-batches of ``frames`` Mel frames needs; returns it."""
    from mfdistill.distill.disk import size
    from mfdistill.distill.logs import say
    from mfdistill.distill.memory import memory_need

    need = memory_need(setup)
    parts = ", ".join(f"{name} {size(count)}" for name, count in need.fixed.items())
    say(f"always there: {size(sum(need.fixed.values()))} ({parts})")
    say(
        f"an update: {size(need.update)} and {need.per_frame / 1024:.0f} KiB for each Mel frame; "
        f"with --tts.batch-frames {frames}: {size(need.total(frames))} in all"
    )
    for card in CARDS_GB:
        fit = need.frames(card * 1e9)
        say(f"{card} GB card: " + (f"--tts.batch-frames {fit} at most" if fit else "does not fit"))
    if not setup.recompute and setup.lora.rank is None:
        say(
            "less: --checkpoint-activations, --lora.rank 32, --mixed-precision bf16, "
            "--integral.teacher-precision bf16, --integral.teacher-rows 1, --ema-on cpu, --moments 8bit"
        )
    saved = need.trained if setup.lora.rank is not None else need.fixed["student"]
    state = saved + need.trained + need.fixed["AdamW's moments"]
    say(f"disk: {size(saved + state)} between saves, {size(saved + 2 * state)} while saving")
    return need


def speech_system(command: StudentDistill) -> tuple[System | None, Section]:
    """The text-to-speech system of a teacher, and its network's sizes, without its weights: an
    imported folder says them, of a file only its names are read. None for other teachers.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.places import resolve
    from mfdistill.systems.table import mel_system

    place = resolve(str(command.teacher))
    if not (place / "config.json").is_file():
        return mel_system(place, kind=command.kind), read_sizes(command.sizes) or {}
    config = load_config(place)
    return mel_system(place, config), (config.get("network") or {}).get("config") or {}


def tell_plan(command: StudentDistill) -> None:
    """What the distillation will need.

    Raises:
        UserError: a teacher that is not a text-to-speech flow, or whose sizes are not known without
            its weights.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.distill.memory import Setup
    from mfdistill.networks.build import network_name
    from mfdistill.places import resolve

    system, sizes = (None, {}) if command.teacher is None else speech_system(command)
    if system is None:
        raise UserError(
            "--plan: counts distillations of text-to-speech flows; name such a --teacher"
        )
    place = resolve(str(command.teacher))
    ours = (place / "config.json").is_file()
    if not ours and system.published is None:
        raise UserError(
            f"--plan: the sizes of {command.teacher} are in its weights; make a folder of it with "
            "teacher-import and name that"
        )
    strength = system.guidance if command.guidance.strength is None else command.guidance.strength
    network = load_config(place)["network"]["name"] if ours else network_name(system.published)
    integral = command.integral if command.objective == "integral" else IntegralConfig()
    setup = Setup(
        network,
        {key: value for key, value in sizes.items() if key != "weights"},
        2 if system.guidance is not None and strength else 1,
        command.training.mixed_precision != "no",
        command.checkpoint_activations,
        integral.targets_per_rollout,
        command.lora,
        integral.teacher_precision == "bf16",
        integral.teacher_rows,
        command.training.ema_on == "cpu",
        command.training.moments == "8bit",
    )
    tell_need(setup, command.tts.batch_frames)
