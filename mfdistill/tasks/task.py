"""The tasks by name. Another task is a file with a class and a preset, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mfdistill.audio.features import StftConfig
from mfdistill.config import check_sample_rate, from_dict
from mfdistill.errors import UserError
from mfdistill.plain import Section
from mfdistill.tasks.bandwidth import Bandwidth, bandwidth_preset
from mfdistill.tasks.base import Predictor, Restoration
from mfdistill.tasks.codec import Codec, codec_preset
from mfdistill.tasks.config import TaskConfig
from mfdistill.tasks.dereverb import Dereverb, dereverb_preset
from mfdistill.tasks.enhance import Enhance, enhance_preset
from mfdistill.tasks.mel import Text2Mel, Token2Mel, mel_preset
from mfdistill.tasks.own import OwnTask, OwnTaskConfig
from mfdistill.tasks.phase import Phase, phase_preset
from mfdistill.tasks.vocode import Vocode, vocode_preset

TASKS: dict[str, tuple[type[Restoration], Callable[[StftConfig], TaskConfig]]] = {
    "enhance": (Enhance, enhance_preset),
    "vocode": (Vocode, vocode_preset),
    "phase": (Phase, phase_preset),
    "dereverb": (Dereverb, dereverb_preset),
    "codec": (Codec, codec_preset),
    "bandwidth": (Bandwidth, bandwidth_preset),
    "token2mel": (Token2Mel, mel_preset("token2mel")),
    "text2mel": (Text2Mel, mel_preset("text2mel")),
}
"""A class, which owns its degradation, its words for cards and help, its framing and crops, and a
preset of its numbers."""
FRAMINGS = {"32/16": (32, 16), "16/8": (16, 8), "40/20": (40, 20)}
"""Window and hop in milliseconds."""
_MULTIPLE = 64
"""Windows are whole multiples of so many samples, which every network's strides divide."""


def framed(sample_rate: int, framing: str) -> tuple[int, int]:
    """Window and hop in samples, the nearest to a framing of ``FRAMINGS``: exact at 8, 16, 24 and
    48 kHz, 31.9/16.0 ms in place of 32/16 at 44.1 kHz.
    """
    window_ms, hop_ms = FRAMINGS[framing]
    n_fft = _MULTIPLE * round(sample_rate * window_ms / (1000 * _MULTIPLE))
    return n_fft, round(n_fft * hop_ms / window_ms)


def read_task_config(section: Section, where: str) -> TaskConfig:
    """The section "task" of a ``config.json``; Mel tasks, and flows of other systems, have fields
    of their own.

    Raises:
        UserError: an unknown field or a wrong value; ``where`` names the section.
    """
    if section.get("name") == "own":
        return from_dict(OwnTaskConfig, section, where)  # type: ignore[return-value]
    row = TASKS.get(str(section.get("name")))
    return from_dict(TaskConfig if row is None else row[0].config_class, section, where)


def get_task(config: TaskConfig, predictor: Predictor | None = None) -> Restoration:
    """The task of a configuration, with the predictor that stands in front of its flow.

    Raises:
        UserError: no such task.
    """
    if isinstance(config, OwnTaskConfig):
        return OwnTask(config)  # type: ignore[return-value]
    if config.name not in TASKS:
        raise UserError(f"task '{config.name}' is unknown; this version has: {', '.join(TASKS)}")
    task = TASKS[config.name][0](config)
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
    check_sample_rate(sample_rate)
    if name not in TASKS:
        raise UserError(f"task '{name}' is unknown; this version has: {', '.join(TASKS)}")
    task, preset = TASKS[name]
    framing = framing or task.framing
    if framing not in FRAMINGS:
        raise UserError(
            f"framing {framing!r}: presets exist for {', '.join(FRAMINGS)} ms; give n_fft and hop for another"
        )
    n_fft, hop = framed(sample_rate, framing)
    return preset(StftConfig(sample_rate=sample_rate, n_fft=n_fft, hop=hop, causal=causal))
