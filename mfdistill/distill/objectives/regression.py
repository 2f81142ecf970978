"""The discriminative baseline: one network of the same kind that predicts the clean features at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, reduce, squared_error
from mfdistill.flow import GaussianPath


def estimate(network: nn.Module, path: GaussianPath, cond: Mapping[str, Tensor]) -> Tensor:
    """``x_hat = m + network(m, 0, cond)`` (b, 2, f, n), m the mean of the prior: one step from a prior without noise."""
    m, _ = path.end_means(torch.zeros_like(cond["y"]), cond)
    return m + network(m, m.new_zeros(m.shape[0]), cond)


class RegressionObjective(nn.Module):
    """``|x_hat - x|^2`` with ``x_hat`` as in ``estimate``; its minimum is the posterior mean.

    Attributes:
        model: the network that is trained.
    """

    def __init__(self, network: nn.Module, path: GaussianPath):
        super().__init__()
        self.model = network
        self.path = path

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        loss = reduce(squared_error(estimate(self.model, self.path, batch["cond"]), batch["z_1"], batch.get("loss_mask")), batch)
        return loss, {"loss": loss.detach()}
