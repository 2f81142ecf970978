"""student-distill --plan: memory, disk and frames that fit, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.commands.student_distill import StudentDistill
    from mfdistill.distill.memory import MemoryNeed

CARDS_GB = (12, 24, 80)
NETWORKS = {
    "f5": "f5", "f5-unett": "f5_unett", "cosyvoice2": "matcha_unet", "cosyvoice3": "cosyvoice3",
}  # fmt: skip
"""Of the published sizes, by kind."""


def plan(command: StudentDistill) -> MemoryNeed:
    """Tell what a distillation will need; returns the count.

    Raises:
        UserError: a teacher that is not another system's Mel flow, or whose sizes are not known
            without its weights.
    """
    from mfdistill.distill.disk import size
    from mfdistill.distill.logs import say
    from mfdistill.distill.memory import memory_need

    setup = setup_of(command)
    need = memory_need(setup)
    parts = ", ".join(f"{name} {size(count)}" for name, count in need.fixed.items())
    frames = command.tts.batch_frames
    say(f"always there: {size(sum(need.fixed.values()))} ({parts})")
    say(
        f"an update: {size(need.update)} and {need.per_frame / 1024:.0f} KiB for each Mel frame; "
        f"with --tts.batch-frames {frames}: {size(need.total(frames))} in all"
    )
    for card in CARDS_GB:
        fit = need.frames(card * 1e9)
        say(f"{card} GB card: " + (f"--tts.batch-frames {fit} at most" if fit else "does not fit"))
    if not setup.recompute and setup.lora.rank is None:
        say("less: --checkpoint-activations, --lora.rank 32, --mixed-precision bf16")
    trained = need.fixed["averaged weights"]
    saved = trained if setup.lora.rank is not None else need.fixed["student"]
    state = saved + 3 * trained
    say(f"disk: {size(saved + state)} between saves, {size(saved + 2 * state)} while saving")
    return need


def setup_of(command: StudentDistill) -> Any:
    """The options that decide about memory."""
    from mfdistill.checkpoint import load_config
    from mfdistill.commands.distill_checks import foreign_teacher
    from mfdistill.distill.memory import Setup
    from mfdistill.places import resolve
    from mfdistill.systems.table import mel_inputs

    found = None if command.teacher is None else foreign_teacher(command)
    if found is None:
        raise UserError(
            "--plan: counts distillations of F5-TTS, CosyVoice and Matcha-TTS; name such a --teacher"
        )
    kind, sizes = found
    place = resolve(str(command.teacher))
    if (place / "config.json").is_file():
        name = load_config(place)["network"]["name"]
    elif kind in NETWORKS:
        name = NETWORKS[kind]
    else:
        raise UserError(
            f"--plan: the sizes of {command.teacher} are in its weights; make a folder of it with "
            "teacher-import and name that"
        )
    strength = command.guidance.strength
    inputs = mel_inputs(kind)
    assert inputs is not None
    guided = inputs.guided and (strength is None or strength > 0)
    return Setup(
        name,
        {key: value for key, value in sizes.items() if key != "weights"},
        2 if guided else 1,
        command.training.mixed_precision != "no",
        command.checkpoint_activations,
        command.integral.targets_per_rollout if command.objective == "integral" else 1,
        command.lora,
    )
