"""The conditional-flow-matching teacher that this program trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mfdistill.flow import noise_like, time_per_sample
from mfdistill.networks.memory import frame_by_frame

if TYPE_CHECKING:
    from mfdistill.tasks import Task


class CFMTeacher:
    """A velocity network with the task that it was trained for (see ``protocol.Teacher``); no
    guidance.

    Args:
        network: ``network(z_t, t, cond) -> v`` with ``time_embedding_name``; put into evaluation
            mode and left there.
        task: gives the path, and with it the prior.
        config: as in the folder's ``config.json``; ``Student.from_teacher`` takes the network's
            name and sizes from it.

    ``t_last`` is the latest time that the network was trained at; ``straight`` is whether its
    states in training lay on the task's path (those of a score model do not).

    Attributes:
        streaming: evaluate frame by frame, with a state, instead of all frames at once; the numbers
            are the same to rounding.
    """

    branches = 1

    def __init__(
        self,
        network: nn.Module,
        task: Task | None = None,
        config: Mapping[str, Any] | None = None,
        streaming: bool = False,
    ):
        self.streaming = streaming
        self.network = network.eval()
        self.time_embedding: str = network.time_embedding_name  # type: ignore[assignment]
        self.task = task
        self.config: dict[str, Any] = dict(config or {})
        sizes = getattr(network, "config", None)
        self.t_last: float = getattr(sizes, "t_last", 1.0)
        self.straight: bool = getattr(sizes, "output", "velocity") == "velocity"

    @torch.no_grad()
    def velocity(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """``v(z_t, t)``; z_t (b, 2, f, n), t (b,), (1,) or 0-d."""
        t = time_per_sample(t, z_t)
        return (
            frame_by_frame(self.network, z_t, t, cond)
            if self.streaming
            else self.network(z_t, t, cond)
        )

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """``z_0`` (b, 2, f, n) for the condition's features ``cond["y"]``.

        Raises:
            ValueError: the teacher was built without a task, so its path is unknown.
        """
        if self.task is None:
            raise ValueError("this teacher was built without a task, so it has no prior")
        y = cond["y"]
        return self.task.path.prior(
            cond, noise_like(y.shape, generator, device=y.device, dtype=y.dtype)
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> CFMTeacher:
        self.network.to(device=device, dtype=dtype)
        predictor: Any = getattr(self.task, "predictor", None)
        if predictor is not None:
            predictor.to(device=device, dtype=dtype)
        return self
