"""What a program that serves CosyVoice or F5-TTS has to change for a student: pass r, skip
guidance, keep the grid of times unwarped.

Chatterbox needs nothing: it does all three where it finds the mixer in its file
(``meanflow=True``). Plain torch, to be copied where needed; docs/serving.md says where it goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cosyvoice_solver(estimator: Any, mixer: Tensor, steps: int = 1) -> Callable[..., Tensor]:
    """Make CosyVoice's estimator one of two times, in place, and return ``solve(z, mask, mu, spks,
    cond, **kwargs) -> z_1``, the student's equal steps, for programs with a solver of their own
    (SGLang-Omni). What of ``kwargs`` the estimator does not take, such as ``streaming``, is left
    out.

    Args:
        estimator, mixer, steps: as ``serve_cosyvoice``.
    """
    name = "time_embed" if hasattr(estimator, "time_embed") else "time_mlp"
    inner, features = getattr(estimator, name), getattr(estimator, "time_embeddings", nn.Identity())

    class Mixed(nn.Module):
        def forward(self, time: Tensor) -> Tensor:
            return F.linear(
                torch.cat([inner(features(time[:, 0])), inner(features(time[:, 1]))], -1), mixer
            )

    estimator.time_embeddings = nn.Identity()
    setattr(estimator, name, Mixed())
    taken = inspect.signature(estimator.forward).parameters
    anything = any(given.kind == given.VAR_KEYWORD for given in taken.values())

    @torch.inference_mode()
    def solve(z: Tensor, mask: Any, mu: Any, spks: Any, cond: Any, **kwargs: Any) -> Tensor:
        given = {key: value for key, value in kwargs.items() if anything or key in taken}
        times = torch.linspace(0, 1, steps + 1).to(mu)
        for t, r in zip(times[:-1], times[1:], strict=True):
            pair = torch.stack([t, r])[None].expand(len(mu), -1)
            z = z + (r - t) * estimator(z, mask, mu, pair, spks, cond, **given)
        return z.float()

    return solve


def serve_cosyvoice(decoder: Any, mixer: Tensor, steps: int = 1) -> None:
    """Make the ``flow.decoder`` of a running CosyVoice 2 or 3 sample a student; changes it in
    place. A decoder without CosyVoice's buffer of noise (vLLM-Omni's) draws fresh noise.

    Args:
        decoder: with the student's weights as its estimator's (``flow.pt`` without the mixer's
            key).
        mixer: the value of that key, ``decoder.estimator.time_embed_mixer.weight`` (d, 2 d). steps:
            network evaluations.
    """
    solve = cosyvoice_solver(decoder.estimator, mixer, steps)

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
        held = getattr(decoder, "rand_noise", None)
        noise = torch.randn_like(mu) if held is None else held[:, :, : mu.size(2)].to(mu)
        return solve(noise * temperature, mask, mu, spks, cond, **kwargs), None

    decoder.forward = forward


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
