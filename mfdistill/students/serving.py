"""What a program that serves CosyVoice or F5-TTS has to change for a student: pass r, skip
guidance, keep the grid of times unwarped.

Chatterbox needs nothing: it does all three where it finds the mixer in its file
(``meanflow=True``). Plain torch, to be copied where needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def serve_cosyvoice(decoder: Any, mixer: Tensor, steps: int = 1) -> None:
    """Make the ``flow.decoder`` of a running CosyVoice 2 or 3 sample a student; changes it in
    place.

    Args:
        decoder: with the student's weights as its estimator's (``flow.pt`` without the mixer's
            key).
        mixer: the value of that key, ``decoder.estimator.time_embed_mixer.weight`` (d, 2 d). steps:
            network evaluations.
    """
    estimator, name = (
        decoder.estimator,
        "time_embed" if hasattr(decoder.estimator, "time_embed") else "time_mlp",
    )
    inner, features = getattr(estimator, name), getattr(estimator, "time_embeddings", nn.Identity())

    class Mixed(nn.Module):
        def forward(self, time: Tensor) -> Tensor:
            return F.linear(
                torch.cat([inner(features(time[:, 0])), inner(features(time[:, 1]))], -1), mixer
            )

    @torch.inference_mode()
    def forward(
        mu: Any,
        mask: Any,
        n_timesteps: Any = 0,
        temperature: Any = 1,
        spks: Any = None,
        cond: Any = None,
        **kwargs: Any,
    ) -> Any:
        z, times = (
            decoder.rand_noise[:, :, : mu.size(2)].to(mu) * temperature,
            torch.linspace(0, 1, steps + 1).to(mu),
        )
        for t, r in zip(times[:-1], times[1:], strict=True):
            z = z + (r - t) * estimator(
                z, mask, mu, torch.stack([t, r])[None].expand(len(mu), -1), spks, cond, **kwargs
            )
        return z.float(), None

    estimator.time_embeddings, decoder.forward = nn.Identity(), forward
    setattr(estimator, name, Mixed())


def serve_f5(cfm: Any, mixer: Tensor, times: Sequence[float]) -> None:
    """Make a running F5-TTS (its ``CFM``) sample a student along ``times``; changes it in place.
    Its sampler takes equal Euler steps; what the network answers at each is scaled to the step that
    belongs there.

    Args:
        cfm: with the student's weights as its transformer's (the exported file without the mixer's
            key).
        mixer: the value of that key, ``ema_model.transformer.time_embed_mixer.weight`` (d, 2 d).
        times: from 0 to 1, the student's schedule.
    """
    net, inner, call, k = (
        cfm.transformer,
        cfm.transformer.time_embed,
        cfm.transformer.forward,
        len(times) - 1,
    )

    class Mixed(nn.Module):
        def forward(self, time: Tensor) -> Tensor:
            grid, i = torch.tensor(times).to(time), (time * k).round().long()
            return F.linear(torch.cat([inner(grid[i]), inner(grid[i + 1])], -1), mixer.to(time))

    def forward(*args: Any, time: Tensor, **kwargs: Any) -> Tensor:
        i = round(float(time) * k)
        return call(*args, time=time, **kwargs) * (times[i + 1] - times[i]) * k

    net.time_embed, net.forward = Mixed(), forward
    sample, fixed = (
        cfm.sample,
        {"steps": k, "cfg_strength": 0.0, "sway_sampling_coef": None, "use_epss": False},
    )
    cfm.sample = lambda *args, **kwargs: sample(*args, **{**kwargs, **fixed})
