"""From speech tokens, a prompt and a speaker to speech by a student or teacher of CosyVoice 2 or
3.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.companions import companion
from mfdistill.distill.foreign_speaker import device_of, open_speaker
from mfdistill.distill.inference import Model, Steps
from mfdistill.distill.mel_vocoder import MelVocoder, open_mel_vocoder
from mfdistill.distill.synthesis import LEAST_PROMPT_S, LONGEST_S, Speech, now
from mfdistill.errors import UserError
from mfdistill.flow import noise
from mfdistill.places import resolve
from mfdistill.systems.cosyvoice_front import FRONT, TokenFront, load_front
from mfdistill.tasks.foreign import ForeignTask


@dataclass(frozen=True)
class CosyVoiceSpeaker:
    """A model with what stands before and behind it."""

    model: Model
    task: ForeignTask
    front: TokenFront
    vocoder: MelVocoder


def open_cosyvoice(
    path: str | Path,
    device: torch.device | str = "cpu",
    guidance: float | None = None,
    vocoder: str | None = None,
) -> CosyVoiceSpeaker:
    """A speaker from the folder of a student or teacher of kind cosyvoice2 or cosyvoice3 (arguments
    as ``f5_synthesis.open_f5``).

    Raises:
        UserError: no such folder, or one without a front end.
    """
    model, place = open_speaker(path, device, guidance), resolve(path)
    task: ForeignTask = model.task  # type: ignore[assignment]
    if companion(place, FRONT) is None:
        raise UserError(
            f"{path}: has no {FRONT}, which embeds speech tokens; distil from a whole flow.pt (it was trained on features mu)"
        )
    return CosyVoiceSpeaker(
        model, task, load_front(place, device), open_mel_vocoder(vocoder, task, device)
    )


def aligned_prompt(mel: Tensor, tokens: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """Prompt Mel (1, n, mels) and tokens (1, k) cut to the same time, as CosyVoice's front end
    does: ``ratio`` frames per token.

    Raises:
        UserError: lengths that differ by more than a quarter: tokens of another recording.
    """
    count = min(mel.shape[1] // ratio, tokens.shape[1])
    if count < 0.75 * max(mel.shape[1] / ratio, tokens.shape[1]):
        raise UserError(
            f"--prompt-tokens: {tokens.shape[1]} tokens, but the prompt has {mel.shape[1] / ratio:.0f} tokens' time; "
            "give the tokens of the same recording"
        )
    return mel[:, : ratio * count], tokens[:, :count]


@torch.no_grad()
def speak_cosyvoice(
    speaker: CosyVoiceSpeaker, prompt: Tensor, prompt_tokens: Tensor, tokens: Tensor, embedding: Tensor, speed: float = 1.0,
    steps: Steps | None = None, seed: int = 0,
) -> Speech:  # fmt: skip
    """What ``tokens (k,)`` say in the voice of ``prompt (s,)``, without the prompt.

    Args:
        prompt: at the task's sample rate. prompt_tokens: (p,) of it. embedding: (d,) the speaker's
            x-vector, of any norm.
        speed: 2 is twice as fast; the spectrogram is resampled in time, as CosyVoice does.
        steps: a number or times; None is the model's own schedule.
        seed: of the noise, which is a function of it and of the frame's number.

    Raises:
        UserError: a prompt that is short, long or does not fit its tokens, tokens outside the
            flow's table, an embedding of another size.
    """
    began, task, front = time.perf_counter(), speaker.task, speaker.front
    rate, device = task.sample_rate, device_of(speaker.model.module)
    if not LEAST_PROMPT_S * rate <= len(prompt) <= LONGEST_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} to {LONGEST_S:g} s of one voice"
        )
    size = front.spk_embed_affine_layer.in_features
    if len(embedding) != size:
        raise UserError(
            f"--speaker: {len(embedding)} numbers, but this flow wants {size}; take CosyVoice's own speaker encoder (CAM++)"
        )
    mel, given = aligned_prompt(
        task.mel(prompt).T[None].to(device), prompt_tokens[None].to(device), front.ratio
    )
    cond = front.condition(tokens[None].to(device), given, mel, embedding[None].to(device))
    mu = cond["mu"]
    eps = noise(seed, torch.arange(mu.shape[2]), "synthesis", mu.shape[1:2], device=device).T[None]
    z_0 = task.path.prior(cond, eps)
    ready = now(z_0)
    z_1 = speaker.model.endpoint(z_0, cond, steps)[:, :, mel.shape[1] :]
    flow_s = now(z_1) - ready
    if speed != 1:
        z_1 = F.interpolate(z_1, size=max(2, int(z_1.shape[2] / speed)), mode="linear")
    wave = speaker.vocoder(z_1)[0]
    return Speech(wave, flow_s, now(wave) - began)
