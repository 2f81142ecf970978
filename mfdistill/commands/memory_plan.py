"""student-distill before anything is loaded: which system a teacher is of, and with --plan the
memory, disk and frames that fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.commands.options import read_sizes

if TYPE_CHECKING:
    from mfdistill.distill.memory import MemoryNeed, Setup
    from mfdistill.plain import Section
    from mfdistill.systems.base import System

CARDS_GB = (8, 12, 24, 80)


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


def speech_system(
    teacher: str, kind: str | None, sizes: str | None
) -> tuple[System | None, Section]:
    """The text-to-speech system of a teacher, and its network's sizes, without its weights: an
    imported folder says them, of a file only its names are read. None for other teachers.
    """
    from mfdistill.checkpoint import load_config
    from mfdistill.places import resolve
    from mfdistill.systems.table import mel_system

    place = resolve(teacher)
    if not (place / "config.json").is_file():
        return mel_system(place, kind=kind), read_sizes(sizes) or {}
    config = load_config(place)
    return mel_system(place, config), (config.get("network") or {}).get("config") or {}
