"""The task of text-to-speech flows of other systems (F5-TTS, CosyVoice, Matcha-TTS): from noise to
a Mel spectrogram.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from mfdistill.audio.speech_mel import SPEECH_MELS, SpeechMelConfig, speech_log_mel
from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.flow import CHANNEL_STD
from mfdistill.tasks.base import Task

_FIXED_FRAMES = 15000


@dataclass(frozen=True)
class Inputs:
    """What a system's condition is made of, and how its states lie."""

    reads: Literal["text", "symbols", "tokens", "mu"]
    """Texts by a vocabulary beside the checkpoint; numbers of symbols (feature "tokens"); speech
    tokens and a speaker, by a front end; or what its own encoder makes of either (feature "mu").
    """
    frames_first: bool = False
    """States are (b, n, mels), not (b, mels, n); the loss is over what is generated, not over all
    frames.
    """
    guided: bool = True
    """Trained with a null condition."""
    prompted: bool = True
    """The condition shows the prompt's frames."""
    recordings: bool = True
    """States are made of recordings here; otherwise they are a feature ("mel")."""


INPUTS = {
    "f5": Inputs("text", frames_first=True),
    "f5-unett": Inputs("text", frames_first=True),
    "cosyvoice2": Inputs("tokens"),
    "cosyvoice3": Inputs("tokens"),
    "matcha": Inputs("mu", guided=False, prompted=False),
}
FOREIGN_TASKS = tuple(INPUTS)


@dataclass(frozen=True)
class ForeignTaskConfig:
    """A Mel flow by its numbers."""

    name: str = "f5"
    """The system whose layout and condition it has."""
    mel: SpeechMelConfig = field(default_factory=SpeechMelConfig)
    mel_mean: float = 0.0
    """What Matcha-TTS subtracts from log-Mels (its ``mel_mean``)."""
    mel_std: float = 1.0
    """What it divides them by."""
    temperature: float = 1.0
    """Standard deviation of the prior (Matcha-TTS samples at 0.667)."""
    fixed_noise: bool = False
    """The prior is always the beginning of CosyVoice's one buffer (``fixed_noise``), so that chunks
    of a stream agree. For
    distillation leave it False: a student that has seen one noise only knows no other.
    """

    frames_per_mu: int = 1
    """Frames that one column of the feature "mu" is for."""

    def __post_init__(self) -> None:
        if not 1 <= self.frames_per_mu <= 4096:
            raise UserError(f"task frames_per_mu: {self.frames_per_mu} must lie between 1 and 4096")
        if not self.temperature >= 0:
            raise UserError(f"task temperature: {self.temperature} must be 0 or more")
        if not self.mel_std > 0:
            raise UserError(f"task mel_std: {self.mel_std} must be above 0")


class MelPath:
    """``z_0`` normal noise of standard deviation ``temperature``, ``z_1`` the Mel spectrogram; both
    0 on padded frames, as in the samplers.
    """

    sigma_0 = 1.0

    def __init__(self, temperature: float = 1.0, fixed: bool = False):
        self.temperature, self.fixed = temperature, fixed

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


def _masked(normal: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    mask = cond.get("mask")
    if mask is None:
        return normal
    return normal * (mask if mask.ndim == normal.ndim else mask[..., None]).to(normal)


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


class ForeignTask(Task):
    """A Mel flow of another system; ``distill.foreign`` makes batches for it."""

    config: ForeignTaskConfig
    path: MelPath
    inputs: Inputs

    def __init__(self, config: ForeignTaskConfig, inputs: Inputs | None = None):
        self.config = config
        self.inputs = inputs or INPUTS[config.name]
        self.sample_rate = config.mel.sample_rate
        self.path = MelPath(config.temperature, config.fixed_noise)

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """As ``Task.prior``, in the shape of ``cond["cond"]`` (b, n, mels), drawn sample by sample
        for its valid frames as F5-TTS does, or of ``cond["mu"]`` (b, mels, n).
        """
        if not self.frames_first:
            mu = cond["mu"]
            device = generator.device if generator is not None else mu.device
            normal = torch.randn(mu.shape, generator=generator, device=device, dtype=mu.dtype)
            return self.path.spread(cond, normal.to(mu.device))
        like, mask = cond["cond"], cond.get("mask")
        b, n, mels = like.shape
        lengths = [n] * b if mask is None else mask.sum(1).tolist()
        return self.path.spread(cond, noise(lengths, mels, n, generator=generator, like=like))

    def with_level(self, mean: float, std: float) -> ForeignTask:
        """The same with other statistics of the log-Mels."""
        return type(self)(replace(self.config, mel_mean=mean, mel_std=std), self.inputs)

    @property
    def frames_first(self) -> bool:
        """States are (b, n, mels), not (b, mels, n)."""
        return self.inputs.frames_first

    def shown(self, x: Tensor, prompt: Tensor) -> Tensor:
        """What the condition shows of a target ``x`` (b, mels, n), the first ``prompt`` (b,)
        frames of it being the prompt's: those frames, and zeros after them.
        """
        return x * (torch.arange(x.shape[2], device=x.device) < prompt[:, None])[:, None]

    def frames(self, samples: int) -> int:
        """Of the Mel spectrogram of so many samples."""
        return self.config.mel.frames(samples)

    def mel(self, wave: Tensor) -> Tensor:
        """Waveform (s,) -> the system's Mel spectrogram (mels, n)."""
        return (
            speech_log_mel(wave[None], self.config.mel)[0] - self.config.mel_mean
        ) / self.config.mel_std


def foreign_task(kind: str, mels: int | None = None, **changes: Any) -> ForeignTask:
    """The task of a kind with its published Mel front end (``audio.speech_mel.SPEECH_MELS``).

    Args:
        mels: bands, where they are not the published ones.
        changes: fields of ``ForeignTaskConfig``.
    """
    mel = SPEECH_MELS["f5" if kind == "f5-unett" else kind]
    if mels is not None and mels != mel.n_mels:
        mel = replace(mel, n_mels=mels)
    return ForeignTask(ForeignTaskConfig(kind, mel, **changes))


def read_foreign_task(section: Mapping[str, Any], where: str) -> ForeignTask:
    """The task of the section "task" of a ``config.json``.

    Raises:
        UserError: an unknown field or a wrong value; ``where`` names the section.
    """
    config = from_dict(ForeignTaskConfig, section, where)
    if config.name not in INPUTS:
        raise UserError(f"{where}: name {config.name!r:.40} is not one of {', '.join(INPUTS)}")
    return ForeignTask(config)


def pad_frames(parts: list[Tensor], n: int) -> Tensor:
    """(d, m_i) tensors as one (b, d, n), zeros at their ends."""
    return torch.stack(
        [torch.nn.functional.pad(part[:, :n], (0, max(0, n - part.shape[1]))) for part in parts]
    )
