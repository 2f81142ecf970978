"""synthesize --budget-ms: as many steps as the time allows, measured on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mfdistill.errors import UserError

if TYPE_CHECKING:
    from mfdistill.distill.speech import Speech

MOST = 8
"""Steps; a student gains little from more."""


def steps_within(budget_ms: float, flow_s: float, seconds: float) -> int:
    """Steps of which each takes ``flow_s`` for ``seconds`` of speech, within ``budget_ms``
    milliseconds per second of speech; 1 to ``MOST``.

    Raises:
        UserError: one step takes longer.
    """
    each_ms = 1000 * flow_s / seconds
    if each_ms > budget_ms:
        raise UserError(
            f"--budget-ms {budget_ms:g}: one step takes {each_ms:.3g} ms per second of speech here; "
            "allow as much, or take a smaller model or a faster device"
        )
    return min(MOST, int(budget_ms / each_ms))


def chosen_within(budget_ms: float, voice: Callable[[], Speech], rate: int) -> int:
    """The steps that fit, by a voice of one step: spoken twice, the second time counts.

    Raises:
        UserError: not even one step fits, or the utterance cannot be spoken.
    """
    from mfdistill.distill.logs import say

    voice()
    speech = voice()
    seconds = len(speech.wave) / rate
    steps = steps_within(budget_ms, speech.flow_s, seconds)
    say(
        f"--budget-ms {budget_ms:g}: a step takes {1000 * speech.flow_s / seconds:.3g} ms per second "
        f"of speech, so {steps}"
    )
    return steps
