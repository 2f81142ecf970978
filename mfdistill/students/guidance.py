"""A student that is told how strongly it is guided (as ZipVoice's distilled model is): one more
number beside t and r.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HARMONICS = 4


class GuidedEmbedding(nn.Module):
    """Embeds [t, r, s]: ``E(t, r) + V silu(B f(s / largest))``, ``V = 0`` at the start, so that it
    answers as without s, for every s.

    ``f`` are s and low harmonics of it; s is the strength in ``v_cond + s (v_cond - v_null)``.

    Args:
        embedding: of stacked pairs (b, 2) -> (b, d); kept as a submodule, its keys under
            ``embedding.``.
        largest: strength of guidance up to which it is trained.
    """

    def __init__(self, embedding: nn.Module, largest: float):
        super().__init__()
        if not largest > 0:
            raise ValueError(f"the largest strength of guidance must be above 0, not {largest}")
        self.embedding, self.largest = embedding, largest
        like = next(embedding.parameters(), torch.zeros(1))
        width = _width(embedding, like)
        self.hidden = nn.Linear(1 + 2 * _HARMONICS, width)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)
        self.to(device=like.device, dtype=like.dtype)

    def forward(self, time: Tensor) -> Tensor:
        """time (b, 3) stacked [t, r, s], or (b, 2) or (b,) for s = 0. Returns (b, d)."""
        if time.ndim == 1 or time.shape[-1] == 2:
            s = torch.zeros(len(time), dtype=time.dtype, device=time.device)
        else:
            time, s = time[:, :2], time[:, 2]
        s = s[:, None] / self.largest
        angle = torch.pi * s * torch.arange(1, _HARMONICS + 1, device=s.device, dtype=s.dtype)
        features = torch.cat([s, angle.sin(), angle.cos()], -1).to(self.out.weight.dtype)
        return self.embedding(time) + self.out(F.silu(self.hidden(features)))


@torch.no_grad()
def _width(embedding: nn.Module, like: Tensor) -> int:
    was_training = embedding.training
    width = embedding.eval()(torch.full((1, 2), 0.5, device=like.device, dtype=like.dtype)).shape[
        -1
    ]
    embedding.train(was_training)
    return width
