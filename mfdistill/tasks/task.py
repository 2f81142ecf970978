"""The tasks by name, and their presets. Another task is a file with a class and a preset, and one
line in each table here (and its name in ``config.TaskName`` and in the options of
``teacher-train``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mfdistill.audio.features import StftConfig
from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.tasks.bandwidth import Bandwidth, bandwidth_preset
from mfdistill.tasks.base import Predictor, Restoration
from mfdistill.tasks.codec import Codec, codec_preset
from mfdistill.tasks.config import TaskConfig
from mfdistill.tasks.dereverb import Dereverb, dereverb_preset
from mfdistill.tasks.enhance import Enhance, enhance_preset
from mfdistill.tasks.foreign import FOREIGN_TASKS, ForeignTask, ForeignTaskConfig
from mfdistill.tasks.mel import MelTaskConfig, Text2Mel, Token2Mel, mel_preset
from mfdistill.tasks.own import OwnTask, OwnTaskConfig
from mfdistill.tasks.phase import Phase, phase_preset
from mfdistill.tasks.vocode import Vocode, vocode_preset

TASKS: dict[str, type[Restoration]] = {
    "enhance": Enhance, "vocode": Vocode, "phase": Phase, "dereverb": Dereverb, "codec": Codec, "bandwidth": Bandwidth,
    "token2mel": Token2Mel, "text2mel": Text2Mel,
}  # fmt: skip
PRESETS: dict[str, Callable[[StftConfig], TaskConfig]] = {
    "enhance": enhance_preset, "vocode": vocode_preset, "phase": phase_preset,
    "dereverb": dereverb_preset, "codec": codec_preset, "bandwidth": bandwidth_preset,
    "token2mel": mel_preset("token2mel"), "text2mel": mel_preset("text2mel"),
}  # fmt: skip
FRAMINGS = {"32/16": (32, 16), "16/8": (16, 8), "40/20": (40, 20)}
"""Window and hop in milliseconds."""
LOWEST_RATE, HIGHEST_RATE = 8000, 48000
_MULTIPLE = 64
"""Windows are whole multiples of so many samples, which every network's strides divide."""


def own_framing(name: str) -> str:
    """The framing of a task's preset, in ``FRAMINGS``: 40/20 ms for codecs of 20 ms frames, 32/16
    ms for all others.
    """
    return "40/20" if name == "codec" else "32/16"


def framed(sample_rate: int, framing: str) -> tuple[int, int]:
    """Window and hop in samples, the nearest to a framing of ``FRAMINGS``: exact at 8, 16, 24 and
    48 kHz, 31.9/16.0 ms in place of 32/16 at 44.1 kHz.
    """
    window_ms, hop_ms = FRAMINGS[framing]
    n_fft = _MULTIPLE * round(sample_rate * window_ms / (1000 * _MULTIPLE))
    return n_fft, round(n_fft * hop_ms / window_ms)


def read_task_config(section: Mapping[str, Any], where: str) -> TaskConfig:
    """The section "task" of a ``config.json``; Mel tasks, and flows of other systems, have fields
    of their own.

    Raises:
        UserError: an unknown field or a wrong value; ``where`` names the section.
    """
    if section.get("name") in FOREIGN_TASKS:
        return from_dict(ForeignTaskConfig, section, where)  # type: ignore[return-value]
    if section.get("name") == "own":
        return from_dict(OwnTaskConfig, section, where)  # type: ignore[return-value]
    return from_dict(
        MelTaskConfig if section.get("name") in ("token2mel", "text2mel") else TaskConfig,
        section,
        where,
    )


def get_task(config: TaskConfig, predictor: Predictor | None = None) -> Restoration:
    """The task of a configuration, with the predictor that stands in front of its flow.

    Raises:
        UserError: no such task.
    """
    if isinstance(config, ForeignTaskConfig):
        return ForeignTask(config)  # type: ignore[return-value]
    if isinstance(config, OwnTaskConfig):
        return OwnTask(config)  # type: ignore[return-value]
    if config.name not in TASKS:
        raise UserError(f"task '{config.name}' is unknown; this version has: {', '.join(TASKS)}")
    task = TASKS[config.name](config)
    task.predictor = predictor
    return task


def predicted(config: TaskConfig) -> TaskConfig:
    """The flow with a predictor in front: from its estimate, with Stream.FM's spread (arXiv
    2512.19442).
    """
    return replace(config, sigma_0=0.05, prior_mean="e", prior_shape="flat", prior_profile=())


def default_task(
    name: str, sample_rate: int = 16000, causal: bool = False, framing: str | None = None
) -> TaskConfig:
    """The preset of a task at any rate from 8 to 48 kHz.

    Args:
        causal: frames end at their newest sample, for streams, and the level and spread are those
            of streams.
        framing: one of ``FRAMINGS``; None is the task's own.

    Raises:
        UserError: no such task or framing, or a sample rate below or above those.
    """
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise UserError(
            f"--sample-rate {sample_rate}: must lie between {LOWEST_RATE} and {HIGHEST_RATE} Hz"
        )
    framing = framing or own_framing(name)
    if framing not in FRAMINGS:
        raise UserError(
            f"framing {framing!r}: presets exist for {', '.join(FRAMINGS)} ms; give n_fft and hop for another"
        )
    if name not in PRESETS:
        raise UserError(f"task '{name}' is unknown; this version has: {', '.join(PRESETS)}")
    n_fft, hop = framed(sample_rate, framing)
    return PRESETS[name](StftConfig(sample_rate=sample_rate, n_fft=n_fft, hop=hop, causal=causal))
