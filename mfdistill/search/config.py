"""What a search is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mfdistill.errors import UserError

START_NAMES = ("uniform", "sway")


@dataclass(frozen=True)
class SearchConfig:
    """What to search for, on what, and how long."""

    nfe: int = 2
    """Network evaluations: the number of steps to place."""
    metric: str = "spksim"
    """A metric of evaluate or one of its columns, or 'teacher-mse' (minus the distance, in features, to a many-step teacher)."""
    limit: int | None = 16
    """Use at most so many validation utterances."""
    iterations: int = 12
    """Ternary steps per line; each keeps two thirds of the interval."""
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
    teacher_solver: Literal["euler", "midpoint", "heun", "rk4"] = "midpoint"
    """For teacher-mse: the teacher's solver."""
    workers: int = 1
    """Processes for PESQ and ESTOI."""

    def __post_init__(self) -> None:
        for name in ("nfe", "limit", "iterations", "patience", "teacher_steps", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UserError(f"--margin {self.margin}: must be 0 or a small positive number")
        unknown = [name for name in self.starts if name not in START_NAMES]
        if unknown or not self.starts:
            raise UserError(f"--starts {' '.join(self.starts)}: choose from {', '.join(START_NAMES)}")
