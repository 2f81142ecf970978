"""Options of student-distill for teachers of other systems, and its presets; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from mfdistill.commands.recipe_table import PRESETS, preset_for
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError
from mfdistill.plain import Plain, Section

Preset = Literal["f5", "f5-paper", "cosyvoice2", "cosyvoice2-paper", "meanflowse-vbdmd"]


@dataclass(frozen=True)
class GuidanceOptions:
    """Guidance of the teacher, by its strength s in v_cond + s (v_cond - v_null); a scale w of
    others is 1 + s.
    """

    strength: float | None = None
    """Part of what the student learns, which then runs without; None is the system's own (F5-TTS 2,
    CosyVoice 0.7), 0 is none.
    """
    range: tuple[float, float] | None = None
    """Instead: the student is told a strength between these two, drawn for every sample, and takes
    it as an input.
    """
    rule: Literal["cfg", "zero-star"] = "cfg"
    """'cfg' as above; 'zero-star' scales v_null to its projection on v_cond first (CFG-Zero*)."""

    def __post_init__(self) -> None:
        if self.range is not None and not (
            0 <= self.range[0] <= self.range[1] and self.range[1] > 0
        ):
            raise UserError(
                f"--guidance.range {self.range[0]} {self.range[1]}: two strengths, 0 or more, the smaller first"
            )
        if self.range is not None and self.strength is not None:
            raise UserError(
                "--guidance.strength and --guidance.range exclude each other: give one of them"
            )


def preset(name: str) -> Plain:
    """Fields of ``StudentDistill`` that a preset sets. "-paper": 16 Euler steps inside [t, r] as
    IntMeanFlow (arXiv 2510.07979, table 3); else 4 midpoint steps, half the evaluations and less
    bias. The learning rate and the number of updates are not the paper's, which does not tell them,
    but those of LITs's and F5-TTS's fine-tuning.

    Raises:
        UserError: no such preset.
    """
    if name == "meanflowse-vbdmd":
        from mfdistill.commands.scratch import meanflowse_preset

        return meanflowse_preset()
    nfe = {"f5": 3, "cosyvoice2": 1}.get(name.removesuffix("-paper"))
    if nfe is None:
        raise UserError(
            f"--preset {name}: this version has f5, f5-paper, cosyvoice2, cosyvoice2-paper and meanflowse-vbdmd"
        )
    paper = name.endswith("-paper")
    integral = (
        IntegralConfig(substeps=16, solver="euler")
        if paper
        else IntegralConfig(substeps=4, solver="midpoint")
    )
    training = TrainConfig(
        out="runs/student", steps=10000, batch_size=32, lr=2e-5, warmup=500, weight_decay=0.01
    )
    return {
        "preset": name,
        "nfe": nfe,
        "integral": integral,
        "training": training,
        "checkpoint_activations": nfe == 3,
    }


def check_preset(name: str | None, kind: str | None, teacher: str) -> None:
    """See that a preset is for a teacher.

    Args:
        kind: of a text-to-speech teacher; None: the teacher restores recordings, or is of a task of
            ours.

    Raises:
        UserError: a preset of another system.
    """
    kinds = PRESETS.get(name.removesuffix("-paper")) if name is not None else None
    if name is None or kind in (kinds or (None,)):
        return
    fitting = preset_for(kind)
    what = "of another kind" if kind is None else f"of kind {kind}"
    remedy = "leave it out" if fitting is None else f"take --preset {fitting}, or leave it out"
    meant = f"teachers of kind {' or '.join(kinds)}" if kinds else "enhancement"
    raise UserError(f"--preset {name}: is for {meant}, and --teacher {teacher} is {what}; {remedy}")


def check_unused(given: Section, teacher: str, systems: Sequence[str]) -> None:
    """See that no option is given that only teachers of text-to-speech ``systems`` have; ``given``:
    sections by their prefixes.

    Raises:
        UserError: names the first one.
    """
    for prefix, section in given.items():
        for item in fields(section):
            if getattr(section, item.name) != getattr(type(section)(), item.name):
                option = f"--{prefix}.{item.name.replace('_', '-')}"
                raise UserError(
                    f"{option}: is for teachers of {', '.join(systems)}, and --teacher {teacher} is none; leave it out"
                )
