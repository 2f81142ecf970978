"""Conditional flow matching: how a teacher is trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, end_points, reduce, squared_error
from mfdistill.errors import UserError
from mfdistill.flow import (
    GaussianPath,
    TimeConfig,
    expand_time,
    interpolate,
    sample_time,
    uniform,
)

Predict = Literal["velocity", "data"]


class CFMObjective(nn.Module):
    """``|v(z_t, t) - (z_1 - z_0)|^2`` (arXiv 2210.02747); its minimum is the marginal velocity of
    the path, whatever weights stand before it.

    Args:
        network: ``network(z_t, t, cond) -> v``, trained. path: gives the end points. times:
            distribution of t. seed: of all draws.
        predict: "data" measures the same error in the data estimate that the path gives for a
            velocity, ``|x_hat - x|^2 = (s_t / s_0)^2 |v_hat - v|^2`` with ``s_t`` the path's spread
            (``data_estimate``), as Flow2GAN does (arXiv 2512.23278).
        quiet: q of the bins' weights ``(|x|^2 + floor^2)^-q`` (``quiet_weights``).
    """

    def __init__(
        self,
        network: nn.Module,
        path: GaussianPath,
        times: TimeConfig | None = None,
        seed: int = 0,
        predict: Predict = "velocity",
        quiet: float = 0.0,
    ):
        super().__init__()
        if predict == "data" and path.sigma_0 == 0:
            raise UserError("--predict data: needs a prior with noise, --sigma-0 above 0")
        if quiet < 0:
            raise UserError(f"--quiet-bins {quiet}: must be 0 or more")
        self.model = network
        self.path = path
        self.times = times or TimeConfig()
        self.seed = seed
        self.predict, self.quiet = predict, quiet

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        t = sample_time(
            self.times, uniform(self.seed, batch["index"], "times", device=batch["z_1"].device)
        )
        z_0, z_1 = end_points(self.path, batch, self.seed)
        v, target = self.model(interpolate(z_0, z_1, t), t, batch["cond"]), z_1 - z_0
        if self.quiet:
            root = quiet_weights(batch["z_1"], self.quiet, self.path.floor).sqrt()
            v, target = root * v, root * target
        error = squared_error(v, target, batch.get("loss_mask"))
        if self.predict == "data":
            error = error * spread_left(self.path, t).square()
        loss = reduce(error, batch)
        return loss, {"loss": loss.detach()}


def spread_left(path: GaussianPath, t: Tensor) -> Tensor:
    """``s_t / s_0 = 1 - t + t sigma_1 / sigma_0``, (b,): so much of an error of the velocity is one
    of the data estimate. It ends at sigma_1 / sigma_0, where nothing is left to estimate.
    """
    return 1 - t + t * (path.sigma_1 / path.sigma_0)


def data_estimate(path: GaussianPath, z_t: Tensor, t: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """x of ``z_t = m + t (x - m) + s_t e`` and ``v = x - m + (s_1 - s_0) e``:
    ``m + (s_t / s_0) v + (1 - s_1 / s_0) (z_t - m)``, with no division by what vanishes at t = 1.
    """
    left = expand_time(spread_left(path, t), z_t)
    return m + left * v + (1 - path.sigma_1 / path.sigma_0) * (z_t - m)


def quiet_weights(x: Tensor, power: float, floor: float) -> Tensor:
    """``(|x|^2 + floor^2)^-power`` of the bins of features (b, 2, f, n), relative to its mean over
    each sample, between 0.01 and 100: (b, 1, f, n). Flow2GAN weighs errors of spectra so, by the
    power 1/2 of their energy; features of compressed magnitude (exponent 1/2) have about that
    already.
    """
    energy = x.float().square().sum(1, keepdim=True) + floor**2
    weights = energy**-power
    mean = weights.flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))
    return torch.clamp(weights / mean, 0.01, 100)
