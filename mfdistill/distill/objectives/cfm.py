"""Conditional flow matching: how a teacher is trained."""

from __future__ import annotations

from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, end_points, reduce, squared_error
from mfdistill.flow import GaussianPath, TimeConfig, interpolate, sample_time, uniform


class CFMObjective(nn.Module):
    """``|v(z_t, t) - (z_1 - z_0)|^2`` (arXiv 2210.02747); its minimum is the marginal velocity of
    the path.

    Args:
        network: ``network(z_t, t, cond) -> v``, trained. path: gives the end points. times:
            distribution of t. seed: of all draws.
    """

    def __init__(
        self, network: nn.Module, path: GaussianPath, times: TimeConfig | None = None, seed: int = 0
    ):
        super().__init__()
        self.model = network
        self.path = path
        self.times = times or TimeConfig()
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        t = sample_time(
            self.times, uniform(self.seed, batch["index"], "times", device=batch["z_1"].device)
        )
        z_0, z_1 = end_points(self.path, batch, self.seed)
        v = self.model(interpolate(z_0, z_1, t), t, batch["cond"])
        loss = reduce(squared_error(v, z_1 - z_0, batch.get("loss_mask")), batch)
        return loss, {"loss": loss.detach()}
