"""What a restoration task is: how the condition is made from audio, in which features, and from
which prior the flow starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mfdistill.audio.features import inverse_features, padded_length, stft_features
from mfdistill.flow import GaussianPath, noise_like
from mfdistill.tasks.config import Degradation, TaskConfig


class Predictor(Protocol):
    """What stands in front of a flow: a frozen ``cond -> e``, an estimate of the clean features
    (``networks.predictor``).
    """

    streaming: bool
    """Run frame by frame with a state; the numbers are the same to rounding."""
    network: torch.nn.Module
    description: dict[str, Any]
    """The section "predictor" of a ``config.json``."""

    @property
    def causal(self) -> bool:
        """Whether it can stream."""
        ...

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> object: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def __call__(self, cond: Mapping[str, Tensor]) -> Tensor:
        """``e (b, 2, f, n)`` of all frames."""
        ...

    def init_state(self, batch: int, freqs: int) -> tuple[Tensor, ...]:
        """The state at the start of ``batch`` streams."""
        ...

    def step(
        self, cond: Mapping[str, Tensor], state: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``e`` of the next frames, and the state after them."""
        ...


class Task:
    """One task. Waveforms are ``(b, samples)``, features ``(b, 2, f, n)``; ``cond`` is ``{"y":
    features}``, and with a predictor in front ``{"y", "e"}``.
    """

    predictor: Predictor | None = None

    def __init__(self, config: TaskConfig):
        self.config = config
        self.sample_rate = config.stft.sample_rate
        self.path = GaussianPath(
            config.sigma_0,
            config.sigma_1,
            config.prior_mean,
            config.prior_shape,
            config.prior_floor,
            config.prior_profile,
            config.temperature,
        )

    degradation: Degradation = "noise"
    """How the degraded signal of a training pair comes from the clean one (see
    ``data.open_train``).
    """

    def gain(self, degraded: Tensor) -> Tensor:
        """Factor ``(b, 1)`` that brings the degraded signal to the level the features are made at;
        silence keeps its level.
        """
        if self.config.normalise == "none":
            return torch.ones_like(degraded[:, :1])
        peak = degraded.abs().amax(-1, keepdim=True)
        return torch.where(peak < 1e-6, torch.ones_like(peak), 1 / peak.clamp_min(1e-6))

    def features(self, wave: Tensor) -> Tensor:
        """``(b, samples) -> (b, 2, f, n)``; the end is padded as the configuration says."""
        z = stft_features(
            torch.nn.functional.pad(wave, (0, self._length(wave.shape[-1]) - wave.shape[-1])),
            self.config.stft,
        )
        return torch.nn.functional.pad(z, (0, -z.shape[-1] % self.config.frame_multiple))

    def _length(self, length: int) -> int:
        """Samples that are transformed; reflection needs more than half a window of them."""
        stft = self.config.stft
        return (
            padded_length(length, stft)
            if self.config.whole_hops
            else max(length, stft.n_fft // 2 + 1)
        )

    def target(self, clean: Tensor) -> Tensor:
        """Features of the clean signal (already at the task's level)."""
        return self.features(clean)

    def condition(self, degraded: Tensor) -> dict[str, Tensor]:
        """The conditioning of the networks from the degraded signal (already at the task's
        level).
        """
        return self.completed(self.observe(self.features(degraded)))

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        """What the degraded signal's features ``(b, 2, f, n)`` say, every frame by itself."""
        return {"y": z}

    def completed(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """``cond`` with what follows from the rest of it: the predictor's estimate ``e``."""
        if self.predictor is None or "e" in cond:
            return cond
        return {**cond, "e": self.predictor(cond)}

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """A draw of ``z_0`` in the shape of ``cond["y"]``, by the task's one prior, ``path``."""
        cond, y = self.completed(dict(cond)), cond["y"]
        eps = noise_like(y.shape, generator, device=y.device, dtype=y.dtype)
        return self.path.prior(cond, eps)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move what it has of weights, a predictor's."""
        if self.predictor is not None:
            self.predictor.to(device=device, dtype=dtype)

    def degrade(self, clean: Tensor) -> Tensor:
        """What the task's input sounds like, from what it is given; enhancement is given its noisy
        input.
        """
        return clean

    def waveform(self, z_1: Tensor, length: int) -> Tensor:
        """Features ``(b, 2, f, n)`` back to ``(b, length)``."""
        return inverse_features(z_1, self.config.stft, self._length(length))[..., :length]
