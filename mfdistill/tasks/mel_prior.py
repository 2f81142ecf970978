"""Where Mel flows start: the prior, and the noise of the systems' own samplers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import CHANNEL_STD

_FIXED_FRAMES = 15000


@dataclass(frozen=True)
class MelPath:
    """``z_0`` normal noise of standard deviation ``temperature``, ``z_1`` the Mel spectrogram; both
    0 on padded frames, as in the samplers.
    """

    temperature: float = 1.0
    fixed: bool = False
    sigma_0: ClassVar[float] = 1.0

    def end_points(
        self, x: Tensor, cond: Mapping[str, Tensor], eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Arguments as ``flow.GaussianPath.end_points``: ``eps`` has the variance 1/2 of a complex
        number's channel. The mask is (b, n) beside (b, n, mels), or (b, 1, n) beside (b, mels, n).

        Training draws fresh noise of variance 1, which the teacher was trained on: temperature and
        fixed noise belong to sampling.
        """
        return _masked(eps / CHANNEL_STD, cond), x

    def prior(self, cond: Mapping[str, Tensor], eps: Tensor, t: float = 0.0) -> Tensor:
        """``z_0``; ``t`` is for other paths."""
        return self.spread(cond, eps / CHANNEL_STD)

    def spread(self, cond: Mapping[str, Tensor], normal: Tensor) -> Tensor:
        """``z_0`` from standard normal noise in its shape, or, where it is fixed, in the place of
        it.
        """
        if self.fixed:
            normal = fixed_noise(normal.shape[2], normal.shape[1]).to(normal).expand_as(normal)
        normal = _masked(normal, cond)
        return normal if self.temperature == 1 else normal * self.temperature


def mask_like(cond: Mapping[str, Tensor], like: Tensor) -> Tensor | None:
    """A condition's mask, (b, n) or (b, 1, n), as a factor of states ``like``; None where it has
    none.
    """
    mask = cond.get("mask")
    return None if mask is None else (mask if mask.ndim == like.ndim else mask[..., None]).to(like)


def _masked(normal: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    mask = mask_like(cond, normal)
    return normal if mask is None else normal * mask


@lru_cache(maxsize=2)
def _noise_buffer(mels: int) -> Tensor:
    return torch.randn(1, mels, _FIXED_FRAMES, generator=torch.Generator().manual_seed(0))


def fixed_noise(frames: int, mels: int = 80) -> Tensor:
    """CosyVoice's noise of inference (1, mels, frames): the beginning of ``randn(1, 80, 15000)`` at
    seed 0, on the CPU.

    Raises:
        UserError: more frames than the buffer has (300 s).
    """
    if frames > _FIXED_FRAMES:
        raise UserError(
            f"fixed noise: {frames} frames, but CosyVoice's buffer has {_FIXED_FRAMES}; split the text, or use fresh noise"
        )
    return _noise_buffer(mels)[:, :, :frames]


def noise(
    lengths: Collection[int],
    mels: int = 100,
    frames: int | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """F5-TTS's noise of inference (b, frames, mels): each sample's own ``length`` frames and zeros
    after them, whatever the batch.

    Args:
        frames: None: the longest.
        seed: start every sample's draw at this seed, on the CPU, as the original's ``seed`` does
            there.
        generator: otherwise draw from it.
        like: gives device and dtype.
    """
    out = torch.zeros(len(lengths), max(lengths, default=0) if frames is None else frames, mels)
    out = out if like is None else out.to(like)
    for row, length in enumerate(lengths):
        source = generator if seed is None else torch.Generator().manual_seed(seed)
        device = out.device if source is None else source.device
        out[row, :length] = torch.randn(
            length, mels, generator=source, device=device, dtype=out.dtype
        ).to(out.device)
    return out
