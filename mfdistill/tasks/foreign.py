"""Mel flows of text-to-speech systems: from noise to a log-Mel spectrogram, given a text or speech
tokens. What differs between the systems is declared in a ``MelKind`` in each system's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mfdistill.audio.speech_mel import SpeechMelConfig, speech_log_mel
from mfdistill.config import from_dict
from mfdistill.errors import UserError
from mfdistill.flow import uniform
from mfdistill.plain import Batch, Item, Raw, Section
from mfdistill.tasks.base import Asked, Compared, Task
from mfdistill.tasks.mel_prior import MelPath, noise

Reads = Literal["text", "symbols", "tokens", "features"]


class Front(Protocol):
    """What makes conditions of speech tokens (``systems.cosyvoice_front.TokenFront``)."""

    ratio: int

    @property
    def embedding_dim(self) -> int: ...

    def condition(
        self,
        token: Tensor,
        prompt_token: Tensor,
        prompt_feat: Tensor,
        embedding: Tensor,
        token_len: Tensor | None = None,
        streaming: bool | Tensor = False,
        finalize: bool = True,
    ) -> dict[str, Tensor]: ...


class Symbols(Protocol):
    """A vocabulary of texts (``data.transcripts.Vocabulary``)."""

    @property
    def symbols(self) -> Sequence[str]: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class MelKind:
    """What a system's Mel flow is beside its numbers.

    ``reads``: what its condition is made of: a text, numbers of symbols (feature "tokens"), speech
    tokens, or features that another program makes. ``frames_first``: states are (b, n, mels), not
    (b, mels, n). ``prompted``: it is given the Mel frames of a prompt. ``ratio``: Mel frames per
    speech token. ``recordings``: states are made of recordings; otherwise they are the feature
    "mel".
    """

    name: str
    label: str
    """As people call it."""
    mel: SpeechMelConfig
    reads: Reads
    frames_first: bool = False
    prompted: bool = True
    ratio: int = 1
    recordings: bool = True


@dataclass(frozen=True)
class ForeignTaskConfig:
    """A Mel flow by its numbers."""

    name: str = "f5"
    """The system whose layout and condition it has."""
    mel: SpeechMelConfig = field(default_factory=SpeechMelConfig)
    mel_mean: float = 0.0
    """What is subtracted from log-Mels, where a system does so."""
    mel_std: float = 1.0
    """What they are divided by."""
    temperature: float = 1.0
    """Standard deviation of the prior in sampling."""
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


class ForeignTask(Task):
    """A Mel flow of a text-to-speech system.

    Attributes:
        kind: what it is. vocabulary: of its texts; front: makes conditions of its speech tokens,
            frozen; both where they are there (``distill.equip``).
        vocoder: (b, mels, n) to (b, (n - 1) hop).
    """

    config: ForeignTaskConfig
    path: MelPath
    about = "text-to-speech flow (what is said and a prompt in, log-Mel spectrogram out)"
    rows = "utterances"
    finishing = {"mel": 1.0}

    def __init__(self, config: ForeignTaskConfig, kind: MelKind):
        self.config, self.kind = config, kind
        self.sample_rate = config.mel.sample_rate
        self.path = MelPath(config.temperature, config.fixed_noise)
        self.frame_axis = -2 if kind.frames_first else -1
        self.speaks = kind.reads
        self.takes, self.example = _REQUESTS[kind.reads]
        self.vocabulary: Symbols | None = None
        self.front: Front | None = None

    def like(self, cond: Mapping[str, Tensor]) -> Tensor:
        """``cond["cond"]`` (b, n, mels), or ``cond["mu"]`` (b, mels, n)."""
        return cond["cond" if self.frames_first else "mu"]

    def prior(self, cond: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """As ``Task.prior``; of (b, n, mels) drawn sample by sample for its valid frames as F5-TTS
        does.
        """
        like, mask = self.like(cond), cond.get("mask")
        if not self.frames_first:
            device = generator.device if generator is not None else like.device
            normal = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
            return self.path.spread(cond, normal.to(like.device))
        b, n, mels = like.shape
        lengths = [n] * b if mask is None else mask.sum(1).tolist()
        return self.path.spread(cond, noise(lengths, mels, n, generator=generator, like=like))

    @property
    def frames_first(self) -> bool:
        """States are (b, n, mels), not (b, mels, n)."""
        return self.kind.frames_first

    @property
    def ratio(self) -> int:
        """Mel frames per speech token."""
        return self.kind.ratio if self.front is None else self.front.ratio

    def with_mel(self, mean: float, std: float) -> ForeignTask:
        return type(self)(replace(self.config, mel_mean=mean, mel_std=std), self.kind)

    def shown(self, x: Tensor, prompt: Tensor) -> Tensor:
        """What the condition shows of a target ``x`` (b, mels, n), the first ``prompt`` (b,)
        frames of it being the prompt's: those frames, and zeros after them.
        """
        return x * (torch.arange(x.shape[2], device=x.device) < prompt[:, None])[:, None]

    def at_temperature(self, temperature: float) -> ForeignTask:
        config = replace(self.config, temperature=temperature, fixed_noise=False)
        return type(self)(config, self.kind)

    def frames(self, samples: int) -> int:
        """Of the Mel spectrogram of so many samples."""
        return self.config.mel.frames(samples)

    def mel(self, wave: Tensor) -> Tensor:
        """Waveform (s,) -> the system's Mel spectrogram (mels, n)."""
        return (
            speech_log_mel(wave[None], self.config.mel)[0] - self.config.mel_mean
        ) / self.config.mel_std

    @torch.no_grad()
    def batch(self, raw: Raw, device: torch.device | str) -> Batch:
        """From a micro-batch of ``data.tts.TTSSet``: "z_1" (b, n, mels) or (b, mels, n), "cond",
        "loss_mask", "index".

        Raises:
            UserError: tokens without a front end, or tokens that it does not know.
        """
        frames, index = raw["frames"].to(device), raw["index"].to(device)
        n = int(raw["frames"].max())
        valid = torch.arange(n, device=device) < frames[:, None]
        x = self._mels(raw, n).to(device) * valid[:, None]
        mask = raw["loss_mask"].to(device)
        if self.frames_first:
            x = x.transpose(1, 2).contiguous()
            cond = {
                "cond": torch.where(mask.bool(), torch.zeros_like(x), x),
                "text": raw["text"].to(device),
            }
            # one sample has no mask in F5-TTS's sampler, which is not the same as a mask of ones
            if len(x) > 1:
                cond["mask"] = valid
        else:
            cond = self._condition(raw, n, valid, x, device)
        if self.draws.guidance is not None:
            low, high = self.draws.guidance
            drawn = uniform(self.draws.seed, index, "guidance", device=device)[:, 0]
            cond["guidance"] = low + (high - low) * drawn
        return {"z_1": x, "cond": cond, "loss_mask": mask, "index": index}

    def _mels(self, raw: Raw, n: int) -> Tensor:
        """(b, mels, n), zeros where there is no audio."""
        if "mel" in raw:
            return pad_frames(raw["mel"], n)
        none = torch.zeros(self.config.mel.n_mels, 0)
        rows = zip(raw["clean"], raw["samples"].tolist(), strict=True)
        return pad_frames([self.mel(wave[:size]) if size else none for wave, size in rows], n)

    def _condition(
        self, raw: Raw, n: int, valid: Tensor, x: Tensor, device: torch.device | str
    ) -> dict[str, Tensor]:
        b, cond, share = len(x), {}, self.draws.streaming_share
        streaming = False
        if share:
            streaming = bool(uniform(self.draws.seed, raw["index"][:1], "streaming") < share)
            cond["streaming"] = torch.full((b,), streaming, device=device)
        if "mu" in raw:
            each = self.config.frames_per_mu
            spread = [mu.repeat_interleave(each, 1) for mu in raw["mu"]] if each > 1 else raw["mu"]
            cond["mu"] = pad_frames(spread, n).to(device) * valid[:, None]
            cond |= {"spks": raw["spks"].to(device)} if "spks" in raw else {}
        else:
            if self.front is None:
                raise UserError(
                    "--tts.front: no front end is there to embed the speech tokens; name CosyVoice's flow file"
                )
            lengths = raw["frames"].to(device) // self.front.ratio
            tokens = raw["tokens"].to(device)[:, : int(lengths.max())]
            nothing = x.new_zeros(b, 0, x.shape[1])
            made = self.front.condition(
                tokens, tokens[:, :0], nothing, raw["embedding"].to(device), lengths, streaming
            )
            cond |= {"mu": made["mu"] * valid[:, None], "spks": made["spks"]}
        if self.kind.prompted:
            cond["cond"] = self.shown(x, raw["prompt"].to(device))
        return {**cond, "mask": valid[:, None].to(x.dtype)}

    def asked(self, item: Item, device: torch.device | str) -> Asked:
        """``item["raw"]`` is a micro-batch of one utterance."""
        batch = self.batch(item["raw"], device)
        mask: Tensor = item["raw"]["loss_mask"].to(device)
        places = torch.arange(mask.numel(), device=device).reshape(mask.shape)
        made = mask * (places >= item["raw"]["prompt"].to(device))
        one = torch.ones(1, 1, device=device)
        return Asked(batch["cond"], one, len(item["clean"]), made)

    def heard(self, asked: Asked, z_1: Tensor) -> Tensor:
        """Through the vocoder, which hears the prompt's own frames before the generated ones. Its
        first sample is the middle of the first frame.
        """
        if "cond" in asked.cond and asked.mask is not None:
            z_1 = torch.where(asked.mask.bool(), z_1, asked.cond["cond"])
        return self.sound(z_1)[0]

    def sound(self, z_1: Tensor) -> Tensor:
        """States to waveforms (b, s).

        Raises:
            UserError: no vocoder was attached.
        """
        if self.vocoder is None:
            raise UserError(f"{self.config.name}: has no vocoder; call attach_vocoder")
        return self.vocoder(z_1.transpose(1, 2) if self.frames_first else z_1)

    def unprocessed(self, item: Item, device: torch.device | str) -> Tensor:
        """The recording's own Mel spectrogram through the vocoder: the most that can be reached."""
        return self.sound(self.batch(item["raw"], device)["z_1"])[0]

    def compared(self, item: Item, estimate: np.ndarray) -> Compared:
        """The generated part and the recording's same part."""
        mel, raw = self.config.mel, item["raw"]
        inside = raw["loss_mask"].flatten().nonzero().flatten()
        first = max(int(inside[0]), int(raw["prompt"][0]))
        end = min(int(inside[-1]) + 1, int(raw["frames"][0]))
        size, start = (end - first - 1) * mel.hop, first * mel.hop
        middle = 0 if mel.scale == "htk" else mel.hop // 2  # of a frame, in the recording
        clean = item["clean"].numpy()[start + middle : start + middle + size]
        return estimate[start : start + size], clean


_REQUESTS: dict[Reads, tuple[tuple[str, ...], str]] = {
    "text": (
        ("text", "prompt_text"),
        '--prompt voice.wav --prompt-text "What is said in it." --text "Hello."',
    ),
    "tokens": (
        ("tokens", "prompt_tokens", "speaker"),
        "--prompt voice.wav --prompt-tokens voice.npy --speaker voice-xvector.npy --tokens said.npy",
    ),
    "symbols": (
        ("tokens", "prompt_tokens"),
        "--prompt voice.wav --prompt-tokens voice.npy --tokens said.npy",
    ),
    "features": ((), ""),
}


def mel_flow(kind: MelKind, mels: int | None = None, **changes: Any) -> ForeignTask:
    """The task of a kind with its published Mel front end.

    Args:
        mels: bands, where they are not the published ones.
        changes: fields of ``ForeignTaskConfig``.
    """
    mel = kind.mel
    if mels is not None and mels != mel.n_mels:
        mel = replace(mel, n_mels=mels)
    return ForeignTask(ForeignTaskConfig(kind.name, mel, **changes), kind)


def read_mel_flow(kind: MelKind, section: Section, where: str) -> ForeignTask:
    """The task of the section "task" of a ``config.json``.

    Raises:
        UserError: an unknown field or a wrong value; ``where`` names the section.
    """
    return ForeignTask(from_dict(ForeignTaskConfig, section, where), kind)


def pad_frames(parts: list[Tensor], n: int) -> Tensor:
    """(d, m_i) tensors as one (b, d, n), zeros at their ends."""
    return torch.stack(
        [torch.nn.functional.pad(part[:, :n], (0, max(0, n - part.shape[1]))) for part in parts]
    )
