"""The discriminative baseline: one network of the same kind that predicts the clean features at
once.
"""

from __future__ import annotations

from torch import Tensor, nn

from mfdistill.distill.objectives.base import Batch, Logs, magnitude_loss, reduce, squared_error
from mfdistill.flow import GaussianPath
from mfdistill.networks.predictor import estimate
from mfdistill.tasks import Restoration


class RegressionObjective(nn.Module):
    """``|x_hat - x|^2`` with ``x_hat`` as in ``estimate``; its minimum is the posterior mean. With
    ``spectral``, that much of the magnitude loss is added which students may be given too
    (``IntegralConfig.spectral``).

    Attributes:
        model: the network that is trained.
    """

    def __init__(
        self,
        network: nn.Module,
        path: GaussianPath,
        task: Restoration | None = None,
        spectral: float = 0.0,
    ):
        super().__init__()
        self.model = network
        self.path, self.task, self.weight = path, task, spectral

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        x_hat = estimate(self.model, self.path, batch["cond"])
        loss = reduce(squared_error(x_hat, batch["z_1"], batch.get("loss_mask")), batch)
        logs = {"loss": loss.detach()}
        if self.weight and self.task is not None:
            spectral = magnitude_loss(self.task, x_hat, batch["z_1"]).mean()
            logs["spectral"] = spectral.detach()
            loss = loss + self.weight * spectral
        return loss, logs
