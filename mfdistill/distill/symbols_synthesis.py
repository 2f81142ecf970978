"""From a prompt and numbers of symbols to speech by a student or teacher of ZipVoice, as its
program does it around its network.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mfdistill.audio.speech_mel import prompt_gain
from mfdistill.distill.foreign_speaker import device_of, open_speaker
from mfdistill.distill.inference import Model, Steps
from mfdistill.distill.mel_vocoder import MelVocoder, open_mel_vocoder
from mfdistill.distill.synthesis import LEAST_PROMPT_S, LONGEST_S, Speech, now
from mfdistill.errors import UserError
from mfdistill.tasks.foreign import ForeignTask, noise


@dataclass(frozen=True)
class SymbolsSpeaker:
    """A model with what stands behind it."""

    model: Model
    task: ForeignTask
    vocoder: MelVocoder


def open_symbols(
    path: str | Path,
    device: torch.device | str = "cpu",
    guidance: float | None = None,
    vocoder: str | None = None,
) -> SymbolsSpeaker:
    """A speaker from a folder whose condition is made of numbers of symbols.

    Args:
        guidance: as ``foreign_speaker.open_speaker``. vocoder: as ``mel_vocoder.open_mel_vocoder``.
    """
    model = open_speaker(path, device, guidance)
    task: ForeignTask = model.task  # type: ignore[assignment]
    return SymbolsSpeaker(model, task, open_mel_vocoder(vocoder, task, device))


def symbols_request(
    mel: Tensor, prompt_tokens: Tensor, tokens: Tensor, speed: float = 1.0
) -> dict[str, Tensor]:
    """The condition: prompt Mel (1, frames, mels), its symbols and the new ones, which get as many
    frames each as the prompt's.
    """
    frames = mel.shape[1]
    new = math.ceil(frames / len(prompt_tokens) * len(tokens) / speed)
    text = torch.cat([prompt_tokens, tokens])[None].to(mel.device)
    return {"cond": torch.nn.functional.pad(mel, (0, 0, 0, new)), "text": text}


@torch.no_grad()
def speak_symbols(
    speaker: SymbolsSpeaker,
    prompt: Tensor,
    prompt_tokens: Tensor,
    tokens: Tensor,
    speed: float = 1.0,
    steps: Steps | None = None,
    seed: int = 0,
) -> Speech:
    """What ``tokens (k,)`` say in the voice of ``prompt (s,)``, without the prompt, at its level.

    Args:
        prompt: at the task's sample rate. prompt_tokens: (p,) of what it says.
        speed: 2 is twice as fast. steps: a number or times; None is the model's own schedule.
        seed: of the noise, on the CPU.

    Raises:
        UserError: a prompt that is short, symbols outside the table, or too long a result.
    """
    began, task = time.perf_counter(), speaker.task
    rate, hop, device = task.sample_rate, task.config.mel.hop, device_of(speaker.model.module)
    if len(prompt) < LEAST_PROMPT_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} s or more of one voice"
        )
    module = speaker.model.module
    network = module if speaker.model.role == "teacher" else module.network
    size: int = network.config.vocab_size  # type: ignore[union-attr, assignment]
    for option, given in (("--prompt-tokens", prompt_tokens), ("--tokens", tokens)):
        if int(given.max()) >= size:
            raise UserError(
                f"{option}: symbol {int(given.max())} is not in the table of {size}; take this checkpoint's tokens.txt"
            )
    gain = prompt_gain(prompt[None])
    mel = task.mel(prompt * gain[0]).T[None].to(device)
    cond = symbols_request(mel, prompt_tokens, tokens, speed)
    n = cond["cond"].shape[1]
    if (n - mel.shape[1]) * hop > LONGEST_S * rate:
        raise UserError(
            f"--tokens: makes {(n - mel.shape[1]) * hop / rate:.0f} s; split them below {LONGEST_S:g} s"
        )
    z_0 = noise([n], mel.shape[2], seed=seed, like=mel)
    ready = now(z_0)
    z_1 = speaker.model.endpoint(z_0, cond, steps)[:, mel.shape[1] :]
    flow_s = now(z_1) - ready
    wave = speaker.vocoder(z_1.transpose(1, 2))[0] / gain[0].to(device)
    return Speech(wave, flow_s, now(wave) - began)
