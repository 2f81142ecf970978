"""Distribution matching (DMD, arXiv 2311.18828; DMD2, arXiv 2405.14867) for flows: what the student
makes is pulled to where the frozen teacher's velocity differs from that of a flow of the student's
own outputs. No clean target belongs to the noise, so it also serves where there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mfdistill.distill.finishing.config import DmdConfig
from mfdistill.distill.objectives.base import (
    Batch,
    Logs,
    hold,
    reduce,
    squared_error,
    teacher_velocity,
)
from mfdistill.distill.players import Player
from mfdistill.flow import expand_time, interpolate, noise, uniform
from mfdistill.networks.causal_layers import freeze_norms
from mfdistill.tasks import Task
from mfdistill.teachers.field import Field

Velocity = Callable[[Tensor, Tensor], Tensor]
T_LEAST, T_MOST = 0.02, 0.98
"""Times that velocities are compared at; at the ends they say nothing of each other."""


def matching_slope(real: Velocity, fake: Velocity, z_t: Tensor, t: Tensor) -> Tensor:
    """How far the two flows' data estimates ``z_t + (1 - t) v`` lie apart, fake minus real, in the
    shape of ``z_t``: a positive multiple of the slope of the divergence between their distributions
    at t, so 0 where these are the same.
    """
    return expand_time(1 - t, z_t) * (fake(z_t, t) - real(z_t, t))


class DistributionMatching(nn.Module):
    """The flow of the student's outputs, a network that starts as a copy of the teacher's, and what
    it and the student minimise.
    """

    teacher: Field

    def __init__(self, task: Task, teacher: Field, config: DmdConfig, seed: int = 0):
        super().__init__()
        hold(self, teacher)
        # all of the noise, whatever the student starts from: so the teacher was trained
        self.path = replace(task.path, temperature=1.0)
        self.config, self.seed = config, seed
        self.fake = copy.deepcopy(teacher.network).requires_grad_(True)
        freeze_norms(self.fake)

    @property
    def player(self) -> Player:
        return Player(self.fake, self.config.lr)

    def forward(self, z_1: Tensor, batch: Batch, move: bool) -> tuple[Tensor, Tensor, Logs]:
        """What the fake flow minimises, ``|v - (z_1 - z_0)|^2`` on the student's outputs ``z_1``,
        and, where ``move`` says so, what the student minimises, whose gradient at ``z_1`` is the
        slope over the mean distance of ``z_1`` from the teacher's estimate; () each.
        """
        mask, cond, x = batch.get("loss_mask"), batch["cond"], batch["z_1"]
        z_1 = z_1 if mask is None else torch.where(mask > 0, z_1, x)
        z_0, end, t = self._drawn(z_1.detach(), batch, "fake")
        v = self.fake(interpolate(z_0, end, t), t, cond)
        loss = reduce(squared_error(v, end - z_0, mask), batch)
        logs = {"fake": loss.detach()}
        if not move:
            return loss, torch.zeros_like(loss), logs
        with torch.no_grad():
            z_0, end, t = self._drawn(z_1, batch, "dmd")
            z_t = interpolate(z_0, end, t)
            v_real = teacher_velocity(self.teacher, z_t, t, cond)
            slope = matching_slope(lambda z, t: v_real, lambda z, t: self.fake(z, t, cond), z_t, t)
            estimate = z_t + expand_time(1 - t, z_t) * v_real
            distance = squared_error(z_1, estimate, mask).sqrt().clamp_min(1e-3)
            slope = slope / distance.reshape(-1, *[1] * (slope.ndim - 1))
        matching = reduce(squared_error(z_1, (z_1 - slope).detach(), mask), batch) / 2
        return loss, matching, logs | {"dmd": matching.detach()}

    def _drawn(self, z_1: Tensor, batch: Batch, what: str) -> tuple[Tensor, Tensor, Tensor]:
        index: Tensor = batch["index"]
        u = uniform(self.seed, index, f"{what}-times", device=z_1.device)[:, 0]
        eps = noise(self.seed, index, f"{what}-noise", z_1.shape[1:], z_1.device)
        z_0, end = self.path.end_points(z_1, batch["cond"], eps)
        return z_0, end, T_LEAST + (T_MOST - T_LEAST) * u
