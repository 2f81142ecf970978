"""Fine-tuning of a compressed network: it imitates the whole one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, end_points, reduce, squared_error
from mfdistill.flow import GaussianPath, IntervalConfig, interpolate, sample_interval, uniform


class ImitationObjective(nn.Module):
    """``|f(z_t, ...) - f_whole(z_t, ...)|^2`` on states of the data's paths; no part of the data's
    own uncertainty is learnt again.

    For students over intervals [t, r], half of them the whole of [0, 1]; for velocity networks over
    t; a regression network at its one input.

    Args:
        model: trained. whole: what it imitates, of the same kind. path: gives the end points. seed:
            of all draws.
    """

    def __init__(
        self, model: nn.Module, whole: nn.Module, path: GaussianPath, role: str, seed: int = 0
    ):
        super().__init__()
        self.model = model
        # not a submodule: it is neither optimised nor saved
        self.teacher: Any = _Whole(whole)
        self.path, self.role, self.seed = path, role, seed
        self.interval = IntervalConfig(p_full=0.5)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        cond = batch["cond"]
        z_0, z_1 = end_points(self.path, batch, self.seed)
        u = uniform(self.seed, batch["index"], "times", n=3, device=z_1.device)
        t, r = sample_interval(self.interval, u)
        if self.role == "student":
            given: tuple[Any, ...] = (interpolate(z_0, z_1, t), t, r, cond)
        elif self.role == "teacher":
            t = u[:, 0]
            given = (interpolate(z_0, z_1, t), t, cond)
        else:
            m, _ = self.path.end_means(torch.zeros_like(cond["y"]), cond)
            given = (m, m.new_zeros(m.shape[0]), cond)
        with torch.no_grad():
            target = self.teacher.network(*given)
        loss = reduce(squared_error(self.model(*given), target, batch.get("loss_mask")), batch)
        return loss, {"loss": loss.detach()}


class _Whole:
    """Moved to the device as teachers are."""

    def __init__(self, network: nn.Module):
        self.network = network.eval().requires_grad_(False)

    def to(self, device: Any) -> _Whole:
        self.network.to(device)
        return self
