"""What a program that serves CosyVoice has to change for a student: pass r, skip guidance, keep the grid of times unwarped.

Chatterbox needs nothing: it does all three where it finds the mixer in its file (``meanflow=True``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def serve_cosyvoice(decoder: Any, mixer: Tensor, steps: int = 1) -> None:
    """Make the ``flow.decoder`` of a running CosyVoice 2 sample a student; changes it in place. Plain torch, to be copied where needed.

    Args:
        decoder: with the student's weights as its estimator's (``flow.pt`` without the mixer's key).
        mixer: the value of that key, ``decoder.estimator.time_embed_mixer.weight`` (d, 2 d). steps: network evaluations.
    """
    estimator, features, mlp = decoder.estimator, decoder.estimator.time_embeddings, decoder.estimator.time_mlp

    class Mixed(nn.Module):
        def forward(self, time: Tensor) -> Tensor:
            return F.linear(torch.cat([mlp(features(time[:, 0])), mlp(features(time[:, 1]))], -1), mixer)

    @torch.inference_mode()
    def forward(mu: Any, mask: Any, n_timesteps: Any = 0, temperature: Any = 1, spks: Any = None, cond: Any = None, **kwargs: Any) -> Any:
        z, times = decoder.rand_noise[:, :, : mu.size(2)].to(mu) * temperature, torch.linspace(0, 1, steps + 1).to(mu)
        for t, r in zip(times[:-1], times[1:], strict=True):
            z = z + (r - t) * estimator(z, mask, mu, torch.stack([t, r])[None].expand(len(mu), -1), spks, cond, **kwargs)
        return z.float(), None

    estimator.time_embeddings, estimator.time_mlp, decoder.forward = nn.Identity(), Mixed(), forward
