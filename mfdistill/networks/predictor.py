"""The predictor in front of a flow (StoRM, arXiv 2212.11851; Stream.FM, arXiv 2512.19442): a frozen
regression network whose estimate the flow starts around and sees. It belongs to the task, and lies
in the folder of every model that was trained with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath
from mfdistill.networks.build import build_network
from mfdistill.networks.causal_layers import freeze_norms
from mfdistill.networks.int8 import put_int8
from mfdistill.networks.memory import frame_by_frame, streams_by_frames
from mfdistill.plain import Section

PREFIX = "predictor."
"""Of a predictor's weights among those of its flow."""


def estimate(
    network: Callable[..., Tensor], path: GaussianPath, cond: Mapping[str, Tensor]
) -> Tensor:
    """``x_hat = m + network(m, 0, cond)`` (b, 2, f, n), m the mean of the prior: one step from a
    prior without noise.
    """
    m, _ = path.end_means(torch.zeros_like(cond["y"]), cond)
    return m + network(m, m.new_zeros(m.shape[0]), cond)


class Predictor(nn.Module):
    """``predictor(cond) -> e``, the ``estimate`` of a regression network, bit for bit; in
    evaluation mode, without gradient. It is no part of what is trained, so nothing changes it.

    Args:
        network: ``network(z_t, t, cond)``; one that sees y alone and answers e itself (Stream.FM's)
            is one of mean "zero".
        description: the section "predictor" of a ``config.json``: "network" ("name", "config"),
            "prior_mean" ("y" or "zero", what the network's answer is added to), "source" and
            "sha256" (where it comes from).

    Attributes:
        streaming: run frame by frame with a state; the numbers are the same to rounding.
    """

    def __init__(self, network: nn.Module, description: Section):
        super().__init__()
        # parameters stay marked as trainable: torch rounds otherwise where they are not
        self.network: Any = network.eval()
        freeze_norms(network)
        self.description = dict(description)
        self.path = GaussianPath(sigma_0=1.0, mean=self.description["prior_mean"])
        self.streaming = False

    @property
    def causal(self) -> bool:
        """Whether it can stream."""
        return streams_by_frames(self.network)

    @torch.no_grad()
    def forward(self, cond: Mapping[str, Tensor]) -> Tensor:
        """``e (b, 2, f, n)``; the weights follow the condition to its device, since nobody else
        moves them.
        """
        if next(self.network.parameters()).device != cond["y"].device:
            self.network.to(cond["y"].device)
        return estimate(
            partial(frame_by_frame, self.network) if self.streaming else self.network,
            self.path,
            cond,
        )

    def init_state(self, batch: int, freqs: int) -> tuple[Tensor, ...]:
        """The state before the first frame of ``batch`` streams."""
        return self.network.init_state(batch, freqs)

    def step(
        self, cond: Mapping[str, Tensor], state: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``e`` of the next frame or frames ``(b, 2, f, n >= 1)``, and the state after them."""
        m, _ = self.path.end_means(torch.zeros_like(cond["y"]), cond)
        change, after = self.network.step(m, m.new_zeros(m.shape[0]), cond, state)
        return m + change, after


def build_predictor(section: Section, where: str) -> Predictor:
    """The predictor that the section "predictor" of a ``config.json`` describes, with random
    weights.

    Raises:
        UserError: an incomplete section, an unknown network, or another mean.
    """
    network = section.get("network")
    if (
        not isinstance(network, Mapping)
        or "name" not in network
        or section.get("prior_mean") not in ("y", "zero")
    ):
        raise UserError(
            f"{where}: predictor: needs a 'network' with 'name' and 'config', and a 'prior_mean', y or zero; restore it or train again"
        )
    module = build_network(network["name"], network.get("config") or {})
    put_int8(module, network.get("int8") or ())
    return Predictor(module, section)


class Tasked(Protocol):
    """A task as far as its predictor."""

    predictor: Any


def with_predictor(tensors: Mapping[str, Tensor], task: Tasked | None) -> dict[str, Tensor]:
    """The tensors of a folder's ``model.safetensors``: a model's own, and those of the predictor
    that its task has, where it has one.
    """
    predictor = None if task is None else task.predictor
    own = (
        {}
        if predictor is None
        else {PREFIX + key: value for key, value in predictor.network.state_dict().items()}
    )
    return {**tensors, **own}


def without_predictor(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inverse: a model's own tensors, and the predictor's."""
    own = {key: value for key, value in tensors.items() if not key.startswith(PREFIX)}
    return own, {
        key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)
    }
