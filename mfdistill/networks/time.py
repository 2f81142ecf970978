"""Time embeddings at unit scale, and the one convention by which a network is told (t, r) through
its one time argument.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def current_time(time: Tensor) -> Tensor:
    """The current time t of a time argument: ``time`` itself if ``(b,)``, the first column if it is
    a stacked pair ``(b, 2)`` of [t, r].

    A network that uses time outside its embedding (preconditioning, output scaling) calls this, so
    that replacing the embedding is all that turns a velocity network into an average-velocity
    network.
    """
    return time[..., 0] if time.ndim == 2 else time


class TimeEmbedding(nn.Module):
    """``(b,)`` times in [0, 1] -> ``(b, dim)``.

    The features are t and low harmonics of it. Their scale is kept near one because the time
    derivative of the whole
    network grows with it: at the Fourier scale 16 of NCSN++ or ``sin(1000 t)`` of F5-TTS, |d_t u| /
    |u| is 67 to 490 at initialisation, and a JVP objective diverges.
    """

    def __init__(self, dim: int, harmonics: int = 4):
        super().__init__()
        self.harmonics = harmonics
        self.linear_1 = nn.Linear(1 + 2 * harmonics, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        # the features in the finer precision of time and weights, the layers in that of the weights
        dtype = self.linear_2.bias.dtype
        t = t.to(torch.promote_types(t.dtype, dtype))
        angle = (
            math.pi
            * t[:, None]
            * torch.arange(1, self.harmonics + 1, device=t.device, dtype=t.dtype)
        )
        features = torch.cat([t[:, None], angle.sin(), angle.cos()], -1).to(dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(features)))


class GuidedTime(nn.Module):
    """A time embedding of a network that may be told its guidance there: (b,) times, or (b, 2)
    stacked [t, s], to (b, d).
    """

    @property
    def takes_guidance(self) -> bool:
        """Whether it is told."""
        raise NotImplementedError


def takes_guidance(embedding: nn.Module) -> bool:
    """Whether a time embedding is told the guidance beside the time."""
    return isinstance(embedding, GuidedTime) and embedding.takes_guidance
