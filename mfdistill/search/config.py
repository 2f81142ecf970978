"""What a search is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mfdistill.errors import UserError

START_NAMES = ("uniform", "sway")
RELATIVE_RESOLUTION = 0.01

MOST_NFE = 64  # times that a search places


@dataclass(frozen=True)
class SearchConfig:
    """What to search for, on what, and how long."""

    nfe: int = 2
    """Network evaluations: the number of steps to place."""
    up_to: int | None = None
    """Place the steps of every number from --nfe to this one, with the same utterances, the same
    targets and all scores kept; the schedule of --nfe stays the student's own.
    """
    metric: str = "spksim"
    """A metric of evaluate or one of its columns, or 'teacher-mse' (minus the distance, in
    features, to a many-step teacher).
    """
    limit: int | Literal["auto"] | None = "auto"
    """Use at most so many validation utterances; or 'auto': 8, and twice as many until, on
    utterances that the search has not seen, the schedule beats uniform, sway and EPSS by more than
    chance or its lead is known to within --resolution; at most 128.
    """
    resolution: float | None = None
    """A difference of the metric that is too small to care about: what the interval of --limit auto
    must come down to, and where a line's search ends before --iterations. Default: the metric's own
    (0.02 for PESQ, 0.005 for spksim, 0.1 dB for SI-SDR, ...: docs/metrics.md), 1 % of the first
    start's score for teacher-mse. 0: no line ends early.
    """
    iterations: int = 12
    """Ternary steps per line, at most; each keeps two thirds of the interval."""
    patience: int | None = None
    """Stop after so many visits without improvement; default: the number of steps."""
    margin: float = 1e-4
    """A move must gain more than this share of the score."""
    starts: tuple[Literal["uniform", "sway"], ...] = ("uniform", "sway")
    """Schedules to start from; the best end is kept."""
    seed: int = 0
    """Of the noise, which is fixed per utterance."""
    teacher: str | None = None
    """For teacher-mse: a teacher's folder."""
    teacher_steps: int = 20
    """For teacher-mse: the teacher's steps."""
    teacher_solver: str = "midpoint"
    """For teacher-mse: the teacher's solver, a name, a composition such as 2xmidpoint+1xeuler@0.2,
    or a learned solver's folder or file (for 1 step).
    """
    workers: int = 1
    """Processes for PESQ, ESTOI and other slow metrics, beside this one."""
    vocoder: str | None = None
    """For students of F5-TTS and CosyVoice and metrics of audio: as of synthesize."""

    def __post_init__(self) -> None:
        if self.up_to is not None and self.up_to < self.nfe:
            raise UserError(f"--up-to {self.up_to}: must be at least --nfe {self.nfe}")
        for name in ("nfe", "limit", "iterations", "patience", "teacher_steps", "workers"):
            value = getattr(self, name)
            if name == "limit" and value == "auto":
                continue
            if value is not None and (isinstance(value, str) or value < 1):
                auto = ", or auto" if name == "limit" else ""
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1{auto}")
        for name, most in (("nfe", MOST_NFE), ("up_to", MOST_NFE), ("workers", 64)):
            if (getattr(self, name) or 0) > most:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at most {most}")
        if self.resolution is not None and not (
            math.isfinite(self.resolution) and self.resolution >= 0
        ):
            raise UserError(
                f"--resolution {self.resolution}: must be 0 or a small positive number, in the unit of the metric"
            )
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UserError(f"--margin {self.margin}: must be 0 or a small positive number")
        unknown = [name for name in self.starts if name not in START_NAMES]
        if unknown or not self.starts:
            raise UserError(
                f"--starts {' '.join(self.starts)}: choose from {', '.join(START_NAMES)}"
            )

    def resolution_of(self, column: str, score: float) -> float:
        """``resolution``, or the default of a metric's column; ``score``, of the first start, sets
        it where the unit is unknown.
        """
        if self.resolution is not None:
            return self.resolution
        from mfdistill.metrics import column_of

        known = column_of(column)
        if known is not None and known.resolution is not None:
            return known.resolution
        return RELATIVE_RESOLUTION * abs(score) if math.isfinite(score) else 0.0


@dataclass(frozen=True)
class SolverConfig:
    """A learned solver: its constraints, its start and its losses (Stream.FM, arXiv 2512.19442)."""

    nfe: int = 5
    """Network evaluations, all in one Runge-Kutta step from 0 to 1."""
    start: str | None = None
    """Method to start near, of as many evaluations: a name or a composition such as
    2xmidpoint+1xeuler@0.2. Default: midpoint, ralston3, rk4_3over8 and rk5_ralston3_ralston2 for 2
    to 5, equal Euler steps for more.
    """
    b_min: float = 0.05
    """Least weight of an evaluation."""
    c_max: float = 0.85
    """Latest time of an evaluation."""
    a_min: float = -2.0
    a_max: float = 2.0
    """Where the coefficients are not penalised."""
    penalty: float = 0.1
    """Weight of what lies beyond."""
    log_stft: float = 1e-3
    """Weight of the log-spectral distance at three resolutions."""
    speech_model: str | None = None
    """Folder or hub id of a HuBERT-like model of the package transformers whose features are
    compared too (mHuBERT-147 in Stream.FM).
    """
    speech: float = 1.0
    """Weight of that comparison."""
    speech_layer: int = 8
    """Hidden state that is compared."""
    pesq: float = 0.0
    """Weight of a differentiable PESQ (package torch-pesq); 0.1 in Stream.FM's variant with
    PESQ.
    """

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise UserError(f"--nfe {self.nfe}: must be at least 2")
        if self.nfe == 1:
            raise UserError(
                "--nfe 1: one evaluation is Euler's step, which has nothing to learn; take 2 or more"
            )
        if not (0 <= self.b_min * self.nfe < 1 and 0 < self.c_max <= 1):
            raise UserError(
                f"--b-min {self.b_min} --c-max {self.c_max}: {self.nfe} evaluations need b_min below {1 / self.nfe:.3g} "
                "and c_max above 0 and up to 1"
            )
        if self.log_stft <= 0 and self.pesq <= 0 and self.speech_model is None:
            raise UserError(
                "--log-stft 0: leaves no loss; give --log-stft, --pesq or --speech-model"
            )
