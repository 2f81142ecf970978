"""Straight paths between paired end points with Gaussian spread (t = 0 prior, t = 1 data)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mfdistill.errors import UserError

CHANNEL_STD = math.sqrt(0.5)  # of one real channel of complex noise whose total variance is 1


def batch_time(t: Tensor | float, z: Tensor) -> Tensor:
    """A time, (b,) or 0-d or a number, as (b,) beside ``z`` (b, ...), on its device; float64 beside
    float64 states, float32 beside all others (a bf16 time would be off by 0.4 %).
    """
    t = torch.as_tensor(t, dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
    if t.ndim == 0:
        t = t.repeat(z.shape[0])
    if t.shape != z.shape[:1]:
        raise ValueError(
            f"time of shape {tuple(t.shape)} beside a state of shape {tuple(z.shape)}: expected one time per sample"
        )
    return t


def time_per_sample(t: Tensor | float, z: Tensor) -> Tensor:
    """A time, (b,), (b, 1), (1,), 0-d or a number, as (b,) beside ``z`` (b, ...), in its own
    precision (a number: as ``batch_time``).
    """
    if not isinstance(t, Tensor):
        return batch_time(t, z)
    return t.reshape(-1).expand(z.shape[0])


def expand_time(t: Tensor | float, z: Tensor) -> Tensor:
    """A time, (b,) or 0-d or a number, as (b, 1, ..., 1) in the dtype of ``z`` (b, ...), ready to
    be multiplied with it.
    """
    return batch_time(t, z).to(z.dtype).reshape(-1, *[1] * (z.ndim - 1))


def interpolate(z_0: Tensor, z_1: Tensor, t: Tensor | float) -> Tensor:
    """``z_t = (1 - t) z_0 + t z_1``; exact at both ends. Its velocity is ``z_1 - z_0`` at every
    t.
    """
    t = expand_time(t, z_0)
    return (1 - t) * z_0 + t * z_1


def noise_like(
    shape: tuple[int, ...] | torch.Size,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Complex Gaussian noise of total variance 1, as two real channels of variance 1/2 each.

    Args:
        shape: (b, 2, ...), real and imaginary part on axis 1.
        generator: its device decides where the numbers are made; the result is moved to ``device``.
    """
    source = generator.device if generator is not None else device
    return (
        torch.randn(shape, generator=generator, device=source, dtype=dtype)
        .mul_(CHANNEL_STD)
        .to(device or source or "cpu")
    )


@dataclass(frozen=True)
class GaussianPath:
    """``z_0 = m + s_0 eps`` and ``z_1 = x + s_1 eps`` with the same ``eps``, joined by a straight
    line.

    States are real tensors (b, 2, f, n): the two channels are the real and imaginary part. ``eps``
    is complex noise of total variance 1 (`noise_like`), so ``s`` is the standard deviation of the
    complex number: each real channel has ``s / sqrt(2)``, 0.71 at ``sigma_0 = 1``. States that are
    not complex spectra want ``tasks.own.OwnTask(std=...)``, whose std is that of every value.

    Attributes:
        sigma_0: spread at the prior. sigma_1: spread at the data.
        mean: ``m`` is the condition's features ("y"), a predictor's estimate ("e") or 0 ("zero").
        shape: ``s_i`` is ``sigma_i`` everywhere ("flat"), ``sigma_i sqrt(|y|^2 + floor^2)`` in each
            bin ("magnitude": the prior follows the energy of the condition, as PriorGrad's does,
            arXiv 2106.06406), or ``sigma_i profile[f]`` ("profile").
        floor: the magnitude below which the "magnitude" scale stops shrinking; never 0, or silent
            bins would have no noise.
        profile: one positive number per frequency, for "profile" only.
        temperature: factor on the noise of ``prior``, which is what is sampled from; training
            (``end_points``) draws all of it. Below 1 there is less variety and less that goes wrong
            (arXiv 2309.03199 samples at 0.667).
    """

    sigma_0: float
    sigma_1: float = 0.001
    mean: Literal["y", "e", "zero"] = "y"
    shape: Literal["flat", "magnitude", "profile"] = "flat"
    floor: float = 0.02
    profile: tuple[float, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.mean not in ("y", "e", "zero"):
            raise UserError(f"path mean: {self.mean!r} is not one of 'y', 'e', 'zero'")
        if self.shape not in ("flat", "magnitude", "profile"):
            raise UserError(
                f"path shape: {self.shape!r} is not one of 'flat', 'magnitude', 'profile'"
            )
        if (self.shape == "profile") != bool(self.profile) or any(
            not value > 0 for value in self.profile
        ):
            raise UserError(
                "path profile: give one positive number per frequency with shape 'profile', and none otherwise"
            )
        for name in ("sigma_0", "sigma_1", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(
                    f"path {name}: {getattr(self, name)} must be a finite number, 0 or more"
                )
        if self.mean == "zero" and self.sigma_0 == 0:
            raise UserError(
                "path sigma_0: 0 with mean 'zero' leaves an empty prior; give a positive sigma_0"
            )
        if self.shape == "magnitude" and not self.floor > 0:
            raise UserError(f"path floor: {self.floor} must be positive")

    def end_means(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``(m, x)``: the means of z_0 and z_1, each (b, 2, f, n)."""
        return self._prior_mean(cond, like=x), x

    def scales(self, cond: Mapping[str, Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        """``(s_0, s_1)``, each broadcastable to (b, 1, f, n), in the dtype and on the device of
        ``like``.
        """
        if self.shape == "flat":
            one = like.new_ones((1,) * like.ndim)
        elif self.shape == "profile":
            one = like.new_tensor(self.profile)[:, None]
        else:
            y = cond["y"].to(like)
            one = (y.square().sum(1, keepdim=True) + self.floor**2).sqrt()
        return self.sigma_0 * one, self.sigma_1 * one

    def end_points(
        self, x: Tensor, cond: Mapping[str, Tensor], eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``(z_0, z_1)`` of one draw ``eps`` (b, 2, f, n); the conditional velocity is ``z_1 -
        z_0``.
        """
        m, x = self.end_means(x, cond)
        s_0, s_1 = self.scales(cond, like=x)
        return m + s_0 * eps, x + s_1 * eps

    def prior(self, cond: Mapping[str, Tensor], eps: Tensor, t: float = 0.0) -> Tensor:
        """``z_0 = m + temperature s_0 eps``, (b, 2, f, n): where sampling starts. One that starts
        at a later t has the spread of that time around the same mean, as MeanFlowSE starts where it
        stops its time early.
        """
        s_0, s_1 = self.scales(cond, like=eps)
        return (
            self._prior_mean(cond, like=eps)
            + self.temperature * (s_0 if t == 0 else (1 - t) * s_0 + t * s_1) * eps
        )

    def _prior_mean(self, cond: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return torch.zeros_like(like) if self.mean == "zero" else cond[self.mean].to(like)
