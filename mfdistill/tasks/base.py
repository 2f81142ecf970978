"""What a restoration task is: how the condition is made from audio, in which features, and from
which prior the flow starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mfdistill.audio.features import inverse_features, padded_length, stft_features
from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath, noise, noise_like
from mfdistill.plain import Batch, Item, Plain, Raw
from mfdistill.tasks.config import Degradation, TaskConfig


class Predictor(Protocol):
    """What stands in front of a flow: a frozen ``cond -> e``, an estimate of the clean features
    (``networks.predictor``).
    """

    streaming: bool
    """Run frame by frame with a state; the numbers are the same to rounding."""
    network: torch.nn.Module
    description: Plain
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


Compared = tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """One utterance as a model is asked for it.

    ``cond`` has one row. ``gain`` (1, 1) is the level normalisation that ``Task.heard`` undoes.
    ``mask``: which frames of the state are generated; None is all of them.
    """

    cond: dict[str, Tensor]
    gain: Tensor
    samples: int
    """Of the recording."""
    mask: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """What is drawn for a batch beside its rows. ``streaming_share`` of the batches say "streaming"
    in their condition, one flag per batch, seen by teacher and student alike; ``guidance``: range
    of the strength of each sample, for students that are told it.
    """

    streaming_share: float = 0.0
    guidance: tuple[float, float] | None = None
    seed: int = 0


class Task:
    """What the network does not know: the prior (``path``), how rows of data become batches, what
    is measured. Subclasses are modalities: ``Restoration`` of recordings, Mel spectrograms
    (``tasks.mel``, ``tasks.foreign``), or states of your own (``tasks.own``).

    Attributes:
        config: its numbers, saved in every ``config.json``; ``config.name`` is its key in the
            tables.
        sample_rate: of its audio; 0 where it has none.
        path: the one prior. predictor: what stands in front of the flow, if anything.
        restores: a recording in, the same recording restored out (``mfdistill restore``).
        needs_text: conditions are made of a text too.
        rows: the kind of its data (``data.open.ROWS``): pairs of clean and degraded recordings,
            recordings with what is said in them, or utterances with texts or speech tokens.
        about: what goes in and what comes out, in words.
        example: options of ``synthesize`` that ask for something.
        speaks: how it is asked to speak (``distill.synthesis.SPEAKERS``); None: it does not.
        takes: of the options of ``synthesize``, those that say what is spoken.
        frame_axis: of a state (b, ...), where its frames are.
        companions: files that a model of it is not used without, by name.
        finishing: weights of the losses that it is finished with (``distill.finishing``), where
            none is given.
        draws: what training draws beside the rows.
        vocoder: makes its states audible, once one is attached (``distill.opening``).
        vocoder_name: what makes its states audible, where that is another model.
    """

    config: Any
    sample_rate: int
    path: Any
    predictor: Predictor | None = None
    restores = False
    needs_text = False
    rows: Literal["pairs", "speech", "utterances"] = "pairs"
    about = ""
    example = ""
    speaks: str | None = None
    takes: tuple[str, ...] = ()
    frame_axis = -1
    companions: Mapping[str, bytes] = {}
    finishing: Mapping[str, float] = {}
    vocoder: Callable[..., Tensor] | None = None
    draws = Draws()

    degradation: Degradation = "none"
    """How the degraded signal of a training pair comes from the clean one (see
    ``data.open_train``).
    """

    @property
    def vocoder_name(self) -> str | None:
        return None

    def batch(self, raw: Raw, device: torch.device | str) -> Batch:
        """What an objective takes, from a raw micro-batch of its data, on ``device`` in fp32:
        "z_1", "cond", "loss_mask" (or None) and "index" (``distill.objectives.base``).
        """
        raise NotImplementedError

    def asked(self, item: Item, device: torch.device | str) -> Asked:
        """An utterance of ``data.open.open_task_eval`` as a model is asked for it; "said" is its
        prepared text, where the task reads one (``distill.inference.asked``).
        """
        raise NotImplementedError

    def heard(self, asked: Asked, z_1: Tensor) -> Tensor:
        """The sound (s,) of a state (1, ...) that a model made of ``asked``."""
        raise NotImplementedError

    def unprocessed(self, item: Item, device: torch.device | str) -> Tensor:
        """What an utterance (s,) sounds like without a model: what the task is given, or the most
        that its vocoder can reach.
        """
        raise NotImplementedError

    def compared(self, item: Item, estimate: np.ndarray) -> Compared:
        """What metrics compare of a whole utterance: estimate and reference, and a prompt's voice
        where there is one.
        """
        return self.judged(estimate, item["clean"].numpy())

    def judged(self, estimate: np.ndarray, clean: np.ndarray) -> Compared:
        """``compared`` of two waveforms (s,)."""
        return estimate, clean

    def with_mel(self, mean: float, std: float) -> Task:
        """The same task of Mels normalised by ``mean`` and ``std``, where its system does so; bare
        of what ``distill.equip`` gave it.
        """
        return self

    @property
    def kept(self) -> float:
        """Share of its weights that a start keeps where finishing takes the prior's noise away."""
        return 1.0

    def at_temperature(self, temperature: float) -> Task:
        """The same task with another factor on its prior's noise in sampling; bare of what
        ``distill.equip`` gave it.
        """
        raise NotImplementedError

    def like(self, cond: Mapping[str, Tensor]) -> Tensor:
        """The part of a condition that has the state's shape."""
        return cond["y"]

    def start(self, cond: Mapping[str, Tensor], seed: int, stream: str, frame: int = 0) -> Tensor:
        """Noise of a path's ``prior`` in the state's shape, a function of (seed, stream, number of
        the frame) and of nothing else, the same in every row; ``frame`` is the first one's number.
        """
        like = self.like(cond)
        axis = self.frame_axis % like.ndim - 1
        rest = [size for place, size in enumerate(like.shape[1:]) if place != axis]
        numbers = torch.arange(frame, frame + like.shape[1:][axis])
        return noise(seed, numbers, stream, rest, device=like.device).movedim(0, axis)[None].expand_as(like)  # fmt: skip

    def completed(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """``cond`` with what follows from the rest of it: the predictor's estimate ``e``."""
        if self.predictor is None or "e" in cond:
            return cond
        return {**cond, "e": self.predictor(cond)}

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """A draw of ``z_0`` in the shape of ``like(cond)``, by the task's one prior, ``path``."""
        cond, y = self.completed(dict(cond)), self.like(cond)
        eps = noise_like(y.shape, generator, device=y.device, dtype=y.dtype)
        return self.path.prior(cond, eps)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move what it has of weights, a predictor's."""
        if self.predictor is not None:
            self.predictor.to(device=device, dtype=dtype)


class Restoration(Task):
    """A degraded recording to the one before it was degraded. Waveforms are ``(b, samples)``,
    features ``(b, 2, f, n)``; ``cond`` is ``{"y": features}``, and with a predictor in front
    ``{"y", "e"}``.
    """

    config: TaskConfig
    path: GaussianPath
    restores = True
    degradation: Degradation = "noise"
    config_class: type[TaskConfig] = TaskConfig
    finishing = {"log_mel": 1.0}
    framing = "32/16"
    """Of its presets: window and hop in milliseconds (``tasks.task.FRAMINGS``)."""
    crop_s: float | None = None
    """Of its training samples, where the data's default does not fit."""

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

    @property
    def kept(self) -> float:
        # without noise around zero nothing is left of what the flow started from
        return 0.5 if self.config.prior_mean == "zero" else 1.0

    def at_temperature(self, temperature: float) -> Restoration:
        other = type(self)(replace(self.config, temperature=temperature))
        other.predictor = self.predictor
        return other

    @torch.no_grad()
    def batch(self, raw: Raw, device: torch.device | str) -> Batch:
        """From ``{"clean": (b, s), "degraded": (b, s), "index": (b,)}`` and perhaps "loss_mask" (b,
        1, 1, n). "gain" (b, 1) is the level normalisation, which ``waveform(z_1, length) / gain``
        undoes.
        """
        clean = raw["clean"].to(device, non_blocking=True)
        degraded = raw["degraded"].to(device, non_blocking=True)
        mask, gain = raw.get("loss_mask"), self.gain(degraded)
        return {
            "z_1": self.target(clean * gain),
            "cond": self.condition(degraded * gain),
            "loss_mask": None if mask is None else mask.to(device),
            "index": torch.as_tensor(raw["index"], device=device),
            "gain": gain,
        }

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

    def condition(self, degraded: Tensor, text: str | None = None) -> dict[str, Tensor]:
        """The conditioning of the networks from the degraded signal (already at the task's
        level).
        """
        return self.completed(self.observe(self.features(degraded)))

    def observe(self, z: Tensor) -> dict[str, Tensor]:
        """What the degraded signal's features ``(b, 2, f, n)`` say, every frame by itself."""
        return {"y": z}

    def asked(self, item: Item, device: torch.device | str) -> Asked:
        degraded = item["degraded"][None].to(device)
        gain = self.gain(degraded)
        return Asked(self.condition(degraded * gain, item.get("said")), gain, degraded.shape[1])

    def heard(self, asked: Asked, z_1: Tensor) -> Tensor:
        return (self.waveform(z_1, asked.samples) / asked.gain)[0]

    def unprocessed(self, item: Item, device: torch.device | str) -> Tensor:
        return self.degrade(item["degraded"][None].to(device))[0]

    def degrade(self, clean: Tensor) -> Tensor:
        """What the task's input sounds like, from what it is given; enhancement is given its noisy
        input.
        """
        return clean

    def waveform(self, z_1: Tensor, length: int) -> Tensor:
        """Features ``(b, 2, f, n)`` back to ``(b, length)``."""
        return inverse_features(z_1, self.config.stft, self._length(length))[..., :length]


def with_audio(task: Task | None, what: str = "this model") -> Restoration:
    """``task`` as one that makes features of waveforms and waveforms of states.

    Raises:
        UserError: it does neither; ``what`` names the model.
    """
    if not isinstance(task, Restoration):
        name = "no task" if task is None else f"the task '{task.config.name}'"
        raise UserError(f"{what}: has {name}, whose states are no features of recordings")
    return task
