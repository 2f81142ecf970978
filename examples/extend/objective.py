"""An objective in one file: the student's one step is where the teacher's many steps arrive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import (
    Batch,
    Logs,
    end_points,
    hold,
    reduce,
    squared_error,
    teacher_velocity,
)
from mfdistill.flow import GaussianPath, solve
from mfdistill.students import Student
from mfdistill.teachers import Field


@dataclass(frozen=True)
class ArrivalConfig:
    steps: int = 4
    """Midpoint steps of the teacher."""


class ArrivalObjective(nn.Module):
    """``|z_0 + u(z_0, 0, 1) - z_1|^2``, z_1 by the teacher from z_0."""

    def __init__(
        self,
        student: Student,
        teacher: Field,
        path: GaussianPath,
        config: ArrivalConfig | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model, self.path, self.config, self.seed = (
            student,
            path,
            config or ArrivalConfig(),
            seed,
        )
        hold(self, teacher)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        cond, (z_0, _) = batch["cond"], end_points(self.path, batch, self.seed)
        with torch.no_grad():
            z_1 = solve(
                lambda z, t: teacher_velocity(self.teacher, z, t, cond), z_0, self.config.steps
            )
        start = z_0.new_zeros(len(z_0))
        reached = z_0 + self.model(z_0, start, start + 1, cond)
        loss = reduce(squared_error(reached, z_1, batch.get("loss_mask")), batch)
        return loss, {"loss": loss.detach()}


OBJECTIVES = {"arrival": (ArrivalConfig, ArrivalObjective)}
