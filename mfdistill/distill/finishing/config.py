"""Settings of the finishing stage, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mfdistill.errors import UserError
from mfdistill.plain import Section

LOSSES = ("log_mel", "mel", "time_l1", "si_sdr", "features")
"""Names of the fields that are weights of losses on what the sampler reaches."""


@dataclass(frozen=True)
class CriticConfig:
    """Critics (discriminators) beside the student, on signals, or on noisy Mel states."""

    weight: float = 0.0
    """Of what the critics say, beside the other losses; 0 is no critics, 0.03 a beginning. Let them
    improve a student that is finished already, with a lower --lr than without them.
    """
    warmup: int = 300
    """Updates at the start in which critics are trained alone: untrained ones only do harm."""
    ramp: int = 200
    """Updates after them over which the weight rises."""
    size: Literal["slim", "published"] = "slim"
    """0.1 million parameters, for CPUs, or EnCodec's and HiFi-GAN's 40 millions."""
    loss: Literal["hinge", "least-squares"] = "hinge"
    matching: float = 2.0
    """Weight of feature matching, in units of 'weight'."""
    lr: float = 5e-4
    """Of the critics; it does not fall."""
    beta: float = 0.8
    """AdamW's first."""
    grad_clip: float = 1.0
    """Highest norm of the critics' gradient; 0 is no limit."""
    r1: float = 0.0
    """Weight of half the squared gradient of the score at real speech, which calms critics."""
    noise: float = 0.0
    """Of signals, shown with both kinds, relative to the real ones' level; Mel states have noise
    anyway.
    """

    def __post_init__(self) -> None:
        for name in ("weight", "warmup", "ramp", "matching", "grad_clip", "r1", "noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--critic.{name.replace('_', '-')} {value}: must be 0 or more")
        if not self.lr > 0:
            raise UserError(f"--critic.lr {self.lr}: must be positive")
        if not 0 <= self.beta < 1:
            raise UserError(f"--critic.beta {self.beta}: must be at least 0 and less than 1")


@dataclass(frozen=True)
class DmdConfig:
    """Distribution matching against the frozen teacher, for tasks where one input has many answers
    (needs --temperature above 0 to give more than one).
    """

    weight: float = 0.0
    """Beside the other losses; 0 is no distribution matching."""
    warmup: int = 100
    """Updates at the start in which only the flow of the student's outputs is trained."""
    lr: float = 5e-4
    """Of that flow, a network that starts as a copy of the teacher's; it does not fall."""

    def __post_init__(self) -> None:
        for name in ("weight", "warmup"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--dmd.{name} {value}: must be 0 or more")
        if not self.lr > 0:
            raise UserError(f"--dmd.lr {self.lr}: must be positive")


@dataclass(frozen=True)
class FinishConfig:
    """Objective ``finish``. Where no weight of a loss is given, they are the task's."""

    nfe: tuple[int, ...] = (1, 2)
    """Numbers of steps that are trained, each on the student's searched schedule if it has one and
    on equal steps otherwise; every update draws one of them. The first becomes the finished model's
    schedule.
    """
    temperature: float | None = None
    """Factor on the prior's noise, in this training and in the finished model. At 0 the model gives
    one answer to one input; random phases carry no information, and one step cannot follow them. By
    default 0; of other systems' text-to-speech what the start has.
    """
    log_mel: float | None = None
    """Weight of the multi-scale log-Mel L1 of signals (spectral tasks)."""
    mel: float | None = None
    """Weight of the L1 of Mel spectrograms (Mel tasks)."""
    time_l1: float | None = None
    """Weight of the L1 of waveforms, relative to the clean one's (spectral tasks)."""
    si_sdr: float | None = None
    """Weight of minus SI-SDR, in bels (spectral tasks)."""
    features: float | None = None
    """Weight of the mean square in the model's features."""
    anchor: float = 0.0
    """Weight of the integral loss (of student-distill) beside them, which keeps u(z, t, r) an
    average velocity of the teacher for other numbers of steps; costs the teacher's evaluations.
    """

    def __post_init__(self) -> None:
        if not self.nfe or min(self.nfe) < 1 or len(set(self.nfe)) < len(self.nfe):
            raise UserError(
                f"--nfe {' '.join(map(str, self.nfe))}: needs different numbers of steps, 1 or more"
            )
        for name in (*LOSSES, "anchor", "temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: must be a finite number, 0 or more"
                )

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses that are not 0."""
        return {name: value for name in LOSSES if (value := getattr(self, name))}


def completed(config: FinishConfig, usual: Mapping[str, float], task: str) -> FinishConfig:
    """With the ``usual`` weights of ``task`` (``Task.finishing``) where none is given, and 0 for
    those that are not.

    Raises:
        UserError: a loss of signals for a task of other states, or one of Mels for signals.
    """
    given = {name: getattr(config, name) for name in LOSSES}
    if all(value is None for value in given.values()):
        given = dict(usual)
    whole = replace(config, **{name: given.get(name) or 0.0 for name in LOSSES})
    signals = ("log_mel", "time_l1", "si_sdr")
    heard = any(name in usual for name in signals)
    for name in ("mel",) if heard else signals:
        if getattr(whole, name):
            what = "Mel spectrograms" if heard else "signals"
            raise UserError(
                f"--{name.replace('_', '-')}: compares {what}, which are not what {task} makes"
            )
    return whole


def schedules(config: FinishConfig, saved: Section) -> dict[int, list[float]]:
    """Times of each number of steps: the searched ones of a ``config.json``, else equal steps."""
    searched = saved.get("schedules") or {}
    return {
        k: [float(t) for t in searched[str(k)]]
        if str(k) in searched
        else [i / k for i in range(k + 1)]
        for k in config.nfe
    }
