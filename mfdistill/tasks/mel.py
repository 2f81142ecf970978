"""Mel tasks: speech units or text, a prompt and (for units) a speaker embedding to a log-Mel
spectrogram, which a vocoder makes audible.

`token2mel` is the setting of CosyVoice's flow (arXiv 2407.05407), `text2mel` that of F5-TTS (arXiv
2410.06885) with its text aligned beforehand, or spread evenly over the frames as ZipVoice does
(arXiv 2506.13053). The Mel spectrogram is that of the `vocode` task, so nothing is lost between
the two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mfdistill.audio.alignment import align, expected, shares
from mfdistill.audio.features import StftConfig, frames
from mfdistill.audio.griffin_lim import griffin_lim
from mfdistill.audio.mel import LOG_FLOOR, MelConfig, MelOperator, mel_to_features
from mfdistill.audio.pitch import PITCHES, harmonics, mean_pitch, pitch_symbols, pitch_track, sung
from mfdistill.audio.speaker import SPEAKER_DIM, NoVoice, cache_folder, joined, partial_embeddings
from mfdistill.audio.units import (
    coarse_log_mel,
    cosines,
    nearest_units,
    smooth,
    spread_units,
    unit_centres,
    unit_features,
    unpack_codebook,
)
from mfdistill.config import check_ranges
from mfdistill.errors import UserError
from mfdistill.plain import Batch, Raw
from mfdistill.tasks.base import Compared, Restoration
from mfdistill.tasks.config import TaskConfig

GRIFFIN_LIM = "griffin-lim"
PROMPT_SHARE = 0.4  # at most so much of an evaluation utterance is its prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MelTaskConfig(TaskConfig):
    """A Mel task by its numbers. What was learnt from the corpus: ``mel_mean`` and ``mel_std`` (a
    number per band, of ln magnitudes), ``codebook`` (of ``unit_levels`` levels, see
    ``audio.units``) or ``alphabet`` (symbol i + 1 is its i-th character, symbol 0 is silence around
    the text) with what aligns it with a recording, ``gaussians`` of its symbols and ``durations``
    (see ``audio.alignment``; none: every text is spread evenly).
    """

    unit_frames: int = 2
    unit_levels: int = 2
    codebook: str = ""
    alphabet: str = ""
    gaussians: str = ""
    durations: tuple[float, ...] = ()
    text: Literal["characters", "phonemes"] = "characters"
    """Of ``text2mel``: letters, or what espeak-ng makes of them."""
    language: str = "en"
    """espeak-ng's name of it, for phonemes."""
    mel_mean: tuple[float, ...] = ()
    mel_std: tuple[float, ...] = ()
    prompt_s: float = 3.0
    """Of an utterance, the beginning that is given when systems are compared (never more than 40
    %).
    """
    vocoder: str = GRIFFIN_LIM
    """'griffin-lim', or the folder of a `vocode` student or teacher with the same Mel
    spectrogram.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, "task ", unit_frames=(1, 256), unit_levels=(0, 64), mel_mean=(-1e6, 1e6), mel_std=(1e-6, 1e6),
            durations=(-1e6, 1e6), prompt_s=(0, 1e5),
        )  # fmt: skip
        for name in ("mel_mean", "mel_std"):
            if len(getattr(self, name)) not in (0, self.n_mels):
                raise UserError(f"task {name}: needs one number for each of {self.n_mels} bands")
        symbols = len(self.alphabet) + 1
        if len(self.durations) != (3 * symbols if self.gaussians else 0):
            raise UserError(
                f"task durations: needs three numbers for each of {symbols} symbols, beside gaussians"
            )


class MelTask(Restoration):
    """States are ``(b, 1, mels, n)``: standardised ln Mel magnitudes. ``cond`` is what
    ``networks.frames.FramesNet`` names.

    ``vocoder(y, length) -> (b, length)``, y ``(b, 2, f, n)`` the zero-phase features of a `vocode`
    task, replaces Griffin-Lim when it is set (``distill.opening.attach_vocoder``).
    """

    degradation = "none"
    restores = False
    rows = "speech"
    finishing = {"mel": 1.0}
    speaker_dim = 0
    voiced = False
    """Whether ``cond`` has ``pitch`` (b, 1), the prompt's mean log2 pitch, and what follows from
    it, the coarse spectrogram ``mu``.
    """
    config: MelTaskConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = MelTaskConfig

    def __init__(self, config: MelTaskConfig):
        super().__init__(config)
        self.operator = MelOperator(config.stft, MelConfig(n_mels=config.n_mels))
        self.mean = torch.tensor(config.mel_mean or (0.0,) * config.n_mels)[:, None]
        self.std = torch.tensor(config.mel_std or (1.0,) * config.n_mels)[:, None]

    @property
    def vocoder_name(self) -> str | None:
        return self.config.vocoder

    @property
    def vocabulary(self) -> int:
        """Number of symbols that ``cond["units"]`` can hold."""
        raise NotImplementedError

    def log_mel(self, wave: Tensor) -> Tensor:
        """``(b, s) -> (b, mels, n)``, ln magnitudes."""
        return self.operator.mel(self.features(wave)).clamp_min(LOG_FLOOR).log()

    def target(self, clean: Tensor) -> Tensor:
        return ((self.log_mel(clean) - self.mean.to(clean.device)) / self.std.to(clean.device))[
            :, None
        ]

    def waveform(self, z_1: Tensor, length: int) -> Tensor:
        """Mel ``(b, 1, mels, n)`` to ``(b, length)`` by the vocoder."""
        stft = self.config.stft
        magnitudes = (z_1[:, 0].float() * self.std.to(z_1.device) + self.mean.to(z_1.device)).exp()
        y = mel_to_features(magnitudes, self.operator.inverse.to(z_1.device), stft)
        if self.vocoder is not None:
            return self.vocoder(y, length)
        if self.config.vocoder != GRIFFIN_LIM:
            raise UserError(
                f"task.vocoder {self.config.vocoder}: not loaded; open the model with open_model, or call attach_vocoder"
            )
        return griffin_lim(y, stft, self._length(length))[:, :length]

    def degrade(self, clean: Tensor) -> Tensor:
        """The recording's own Mel spectrogram through the vocoder: the most that this task can
        reach.
        """
        gain = self.gain(clean)
        return self.waveform(self.target(clean * gain), clean.shape[-1]) / gain

    def prompt_frames(self, n: int) -> int:
        """Of an evaluation utterance of ``n`` frames."""
        hop_s = self.config.stft.hop / self.sample_rate
        return max(1, min(round(self.config.prompt_s / hop_s), int(PROMPT_SHARE * n)))

    def judged(self, estimate: np.ndarray, clean: np.ndarray) -> Compared:
        """What is compared of an evaluation utterance ``(s,)``: the generated part, the recording's
        same part, and the prompt, whose voice the generated part should have.
        """
        start = (
            self.prompt_frames(frames(self._length(len(clean)), self.config.stft))
            * self.config.stft.hop
        )
        return estimate[start:], clean[start:], clean[:start]

    def condition(self, degraded: Tensor, text: str | None = None) -> dict[str, Tensor]:
        """The condition of whole recordings ``(b, s)``, whose beginning is the prompt."""
        z = self.target(degraded)
        prompt = torch.zeros_like(z[:, :, :1])
        prompt[..., : self.prompt_frames(z.shape[-1])] = 1
        start = self.prompt_frames(z.shape[-1]) * self.config.stft.hop
        cond = {
            "y": z * prompt,
            "prompt": prompt,
            "mask": torch.ones_like(prompt),
            "units": self.symbols(degraded, z.shape[-1], text),
        }
        return self.completed(cond | self.voice(degraded[:, :start]))

    def symbols(self, wave: Tensor, n: int, text: str | None = None) -> Tensor:
        """What is said, ``(b, n)``, frame by frame."""
        raise NotImplementedError

    def voice(self, wave: Tensor) -> dict[str, Tensor]:
        """``{"speaker": (b, 256), "pitch": (b, 1)}`` of recordings ``(b, s)``; zeros, with a
        warning, where there is no voice. Nothing where the task has no speaker embedding.
        """
        if not self.speaker_dim:
            return {}
        pitch = torch.stack([mean_pitch(self.pitch(row)) for row in wave])
        found = []
        for row in wave.cpu().numpy():
            try:
                found.append(
                    torch.from_numpy(
                        joined(partial_embeddings(row, self.sample_rate, cache_folder()))
                    ).float()
                )
            except NoVoice as error:
                log.warning("prompt: %s; generated without a speaker embedding", error)
                found.append(torch.zeros(self.speaker_dim))
        return {"speaker": torch.stack(found).to(wave.device), "pitch": pitch}

    def pitch(self, wave: Tensor) -> Tensor:
        """Pitch in Hz of a recording ``(s,)`` at its frames ``(n,)``, 0 unvoiced."""
        return pitch_track(
            wave, self.config.stft, frames(self._length(len(wave)), self.config.stft)
        )

    def batch(self, raw: Raw, device: torch.device | str) -> Batch:
        """What an objective takes, from the samples of ``data.speech.SpeechSet`` or from plain
        crops (as ``distill.batch.make_batch``).
        """
        clean = raw["clean"].to(device, non_blocking=True)
        index = torch.as_tensor(raw["index"], device=device)
        if "units" not in raw:
            gain = self.gain(clean)
            texts = raw.get("text") or [None] * len(clean)
            conds = [
                self.condition(wave[None] * g, text)
                for wave, g, text in zip(clean, gain, texts, strict=True)
            ]
            cond = {key: torch.cat([one[key] for one in conds]) for key in conds[0]}
            return {
                "z_1": self.target(clean * gain),
                "cond": cond,
                "loss_mask": 1 - cond["prompt"],
                "index": index,
                "gain": gain,
            }
        z_1 = self.target(clean)
        keys = ("prompt", "mask", "units", *(("speaker", "pitch") if self.voiced else ()))
        cond = {key: raw[key].to(device, non_blocking=True) for key in keys}
        z_1 = z_1 * cond["mask"]
        cond = self.completed(cond | {"y": z_1 * cond["prompt"]})
        return {
            "z_1": z_1,
            "cond": cond,
            "loss_mask": raw["loss_mask"].to(device),
            "index": index,
            "gain": torch.ones_like(clean[:, :1]),
        }


class Token2Mel(MelTask):
    """Units and a speaker to Mel; the units are those of the recording itself."""

    about = "speech synthesis from units (units and a prompt in, speech out)"
    example = "--prompt voice.wav --tokens-from said.wav"
    crop_s = 4.0
    speaker_dim = SPEAKER_DIM
    voiced = True
    speaks, takes = "units", ("tokens_from",)

    def __init__(self, config: MelTaskConfig):
        super().__init__(config)
        self.codebook = (
            unpack_codebook(config.codebook, config.unit_levels) if config.codebook else None
        )

    @property
    def vocabulary(self) -> int:
        return 0 if self.codebook is None else self.codebook[..., 0].numel() + PITCHES

    def units(self, wave: Tensor, track: Tensor | None = None) -> Tensor:
        """Units ``(m, levels + 1)`` of a whole recording ``(s,)``: the codes of every level, and
        the pitch; numbered one after another, so that they share one table of ``vocabulary`` rows.
        ``track``: its ``pitch``, where it is known.
        """
        if self.codebook is None:
            raise UserError(
                "task.codebook: empty; units are learnt by teacher-train --task token2mel"
            )
        hold = self.config.unit_frames
        codes = nearest_units(unit_features(self.log_mel(wave[None])[0], hold), self.codebook)
        pitches = pitch_symbols(self.pitch(wave) if track is None else track, hold)[
            : len(codes), None
        ]
        return torch.cat([codes, pitches + self.vocabulary - PITCHES], 1)

    def symbols(self, wave: Tensor, n: int, text: str | None = None) -> Tensor:
        return torch.stack(
            [spread_units(self.units(row), self.config.unit_frames, n) for row in wave]
        )

    def completed(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds ``mu`` (b, 1, mels, n), as CosyVoice calls it: the units' coarse spectrogram in the
        prompt's voice, with the harmonics that their melody has at the prompt's pitch; 0 without a
        prompt.
        """
        if "mu" in cond:
            return cond
        assert self.codebook is not None
        mels = self.config.n_mels
        mean, std = self.mean.to(cond["y"]), self.std.to(cond["y"])
        given = cond["prompt"][:, 0]
        coarse = coarse_log_mel(
            unit_centres(cond["units"][..., :-1], self.codebook),
            cond["y"][:, 0] * std + mean,
            given,
        )
        melody = sung(cond["units"][..., -1] - (self.vocabulary - PITCHES), cond["pitch"])
        comb = harmonics(melody, self.operator.filterbank.T, self.config.stft)
        comb = comb - smooth(cosines(mels).to(comb) @ comb, mels)
        mu = (coarse + comb.to(coarse) - mean) / std
        return cond | {"mu": (mu * (given.sum(-1, keepdim=True) > 0) * cond["mask"][:, 0])[:, None]}


class Text2Mel(MelTask):
    """Text to Mel by infilling: the text covers the whole recording, prompt and all. Every frame of
    a recording has the symbol that an alignment gives it; what is new is spread over its frames by
    how long symbols usually last.
    """

    about = "speech synthesis from text (text and a prompt in, speech out)"
    example = '--prompt voice.wav --text "Hello."'
    crop_s = 8.0
    needs_text = True
    speaks, takes = "spread text", ("text", "prompt_text")

    def __init__(self, config: MelTaskConfig):
        super().__init__(config)
        self.gaussians = None
        if config.gaussians:
            self.gaussians = unpack_codebook(config.gaussians, self.vocabulary, "gaussians")
        self.durations = np.reshape(config.durations, (3, -1))

    @property
    def vocabulary(self) -> int:
        return len(self.config.alphabet) + 1

    def encode(self, text: str) -> Tensor:
        """Symbols ``(m,)`` of a prepared text (``data.texts.prepared``), between silences where
        texts are aligned.

        Raises:
            UserError: empty, or a character that the training texts did not have.
        """
        if not text.strip():
            raise UserError("text: empty; give some words")
        unknown = sorted(set(text) - set(self.config.alphabet))
        if unknown:
            known = self.config.alphabet or "(none)"
            raise UserError(
                f"text: {unknown[0]!r} is not in this model's vocabulary ({known}); leave it out or spell it"
            )
        ends = [0] if self.config.gaussians else []
        return torch.tensor(
            [*ends, *(self.config.alphabet.index(character) + 1 for character in text), *ends]
        )

    def usual(self, text: str) -> np.ndarray:
        """Frames ``(m,)`` that each symbol of a text usually lasts; 1 where that is not known."""
        symbols = self.encode(text).numpy()
        return expected(self.durations, symbols) if self.durations.size else np.ones(len(symbols))

    def spread(self, text: str, n: int) -> Tensor:
        """The symbols of a text over ``n`` frames ``(n,)``, each for its usual share of them."""
        return self.encode(text)[torch.from_numpy(shares(self.usual(text), n))]

    def aligned(self, log_mel: Tensor, text: str) -> Tensor:
        """The symbol of every frame ``(n,)`` of a recording ``(mels, n)`` that says ``text``."""
        n = log_mel.shape[-1]
        if self.gaussians is None or len(text) > n:
            return self.spread(text, n)
        symbols = self.encode(text)
        features = unit_features(log_mel.cpu(), 1)
        return symbols.repeat_interleave(
            torch.from_numpy(align([features], [symbols], self.gaussians)[0])
        )

    def symbols(self, wave: Tensor, n: int, text: str | None = None) -> Tensor:
        if text is None:
            raise UserError(
                "--data: an utterance has no text, which text2mel needs; add it to transcripts.tsv (path, speaker, text)"
            )
        return torch.stack([self.aligned(mel, text)[:n] for mel in self.log_mel(wave)]).to(
            wave.device
        )


def mel_preset(name: Literal["token2mel", "text2mel"]) -> Callable[[StftConfig], MelTaskConfig]:
    """Standard normal noise to Mel, with the `vocode` task's windows."""

    def preset(stft: StftConfig) -> MelTaskConfig:
        # sigma is of complex noise, and a Mel state has one real channel
        return MelTaskConfig(
            name, replace(stft, window="hann"), sigma_0=2**0.5, sigma_1=1e-4, prior_mean="zero"
        )

    return preset
