"""From a prompt and a text to speech by a student or teacher of F5-TTS, as the package f5-tts
(1.1.22) does it around its network.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from mfdistill.audio.crossfade import crossfade
from mfdistill.audio.speech_mel import prompt_gain
from mfdistill.data.chunks import text_chunks
from mfdistill.data.transcripts import f5_symbols
from mfdistill.distill.inference import Steps
from mfdistill.distill.logs import say
from mfdistill.distill.opening import Model, flow_task
from mfdistill.distill.speech import LEAST_PROMPT_S, Said, Speech, now
from mfdistill.errors import UserError
from mfdistill.systems.f5_inputs import f5_condition, f5_duration, paste_prompt
from mfdistill.tasks.foreign import Symbols
from mfdistill.tasks.mel_prior import noise

LONGEST_S = 22.0
"""Of prompt and part together, by the prompt's pace."""
LONGEST_PROMPT_S = 15.0
LEAST_PART = 20
"""Bytes of text that the longest part must have; below 10 F5-TTS speaks slowly."""
FADE_S = 0.15


def prompt_ending(text: str) -> str:
    """The prompt's text as f5-tts joins it with the new one: ended by a full stop where it has
    none, and a space.
    """
    ended = text if text.endswith((". ", "。")) else text + (" " if text.endswith(".") else ". ")
    return ended + (" " if ended[-1].isascii() else "")


def text_parts(text: str, said: str, prompt_s: float, speed: float = 1.0) -> list[str]:
    """``text`` in parts that last, with the prompt, at most ``LONGEST_S`` at the prompt's pace.

    Args:
        said: what the prompt says (``prompt_ending``).

    Raises:
        UserError: a prompt that is too long, or whose text is too short for it.
    """
    if prompt_s > LONGEST_PROMPT_S:
        raise UserError(
            f"--prompt: lasts {prompt_s:.1f} s; cut it, and its text, to {LONGEST_PROMPT_S:g} s or less (6 to 12 s are usual)"
        )
    most = int(len(said.encode()) / prompt_s * (LONGEST_S - prompt_s) * speed)
    if most < LEAST_PART:
        raise UserError(
            f"--prompt-text: {said.strip()[:40]!r} is too short for {prompt_s:.1f} s of speech; write all "
            "that the prompt says, or raise --speed"
        )
    return text_chunks(text, most)


def f5_request(
    vocabulary: Symbols,
    mel: Tensor,
    prompt_frames: int,
    said: str,
    text: str,
    speed: float = 1.0,
) -> dict[str, Tensor]:
    """The condition of one part: prompt Mel (1, frames, mels), its text, the new text, and as many
    frames as F5-TTS's rule gives.

    Args:
        prompt_frames: of the rule, its samples // hop; the centred spectrogram has one more.
    """
    symbols = torch.tensor([vocabulary.encode(said + text)], device=mel.device)
    return f5_condition(mel, symbols, f5_duration(prompt_frames, said, text, speed))


@torch.no_grad()
def speak_f5(
    model: Model,
    prompt: Tensor,
    prompt_text: str,
    text: str,
    speed: float = 1.0,
    steps: Steps | None = None,
    seed: int = 0,
) -> Speech:
    """``text`` in the voice of ``prompt (s,)``, without the prompt, at its level.

    Args:
        prompt: at the task's sample rate, on the model's device. prompt_text: what it says; it
            gives the pace.
        speed: 2 is twice as fast.
        steps: a number or times; None is the model's own schedule.
        seed: of the first part's noise, on the CPU as F5-TTS's; the parts after it take the next
            ones.

    Raises:
        UserError: an empty text, one outside the vocabulary, a short, long or silent prompt, or a
            text that does not fit it.
    """
    began, task, flow_s = time.perf_counter(), flow_task(model), 0.0
    vocabulary, vocoder = task.vocabulary, task.vocoder
    assert vocabulary is not None and vocoder is not None  # distill.opening.ready
    rate, hop, device = task.sample_rate, task.config.mel.hop, model.device
    if len(prompt) < LEAST_PROMPT_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} s or more of one voice"
        )
    for option, given in (("--prompt-text", prompt_text), ("--text", text)):
        if not given.strip():
            raise UserError(
                f"{option}: empty; write what {'the prompt says' if option == '--prompt-text' else 'is to be said'}"
            )
        _warn_unknown(vocabulary, option, given)
    gain = prompt_gain(prompt[None])
    mel = task.mel(prompt * gain[0]).T[None].to(device)
    said, frames = prompt_ending(prompt_text.strip()), len(prompt) // hop
    waves = []
    for number, part in enumerate(text_parts(text, said, len(prompt) / rate, speed)):
        cond = f5_request(vocabulary, mel, frames, said, part, speed)
        z_0 = noise([cond["cond"].shape[1]], mel.shape[2], seed=seed + number, like=cond["cond"])
        ready = now(z_0)
        z_1 = paste_prompt(model.endpoint(z_0, cond, steps), cond, [mel.shape[1]])
        flow_s += now(z_0) - ready
        waves.append(vocoder(z_1[:, frames:].transpose(1, 2))[0] / gain[0])
    wave = crossfade(waves, round(FADE_S * rate))
    return Speech(wave, flow_s, now(wave) - began)


def speak_text(
    model: Model, said: Said, speed: float = 1.0, steps: Steps | None = None, seed: int = 0
) -> Speech:
    """``speak_f5`` of what is asked for."""
    return speak_f5(model, said.prompt, said.prompt_text or "", said.text or "", speed, steps, seed)


def _warn_unknown(vocabulary: Symbols, option: str, text: str) -> None:
    """Tell the few symbols that are replaced; raises ``UserError`` where they are most of the
    text.
    """
    vocabulary.encode(text)
    unknown = sorted(set(f5_symbols(text)) - set(vocabulary.symbols))
    if unknown:
        say(
            f"{option}: {' '.join(map(repr, unknown[:5]))} are not in the vocabulary; read as {vocabulary.symbols[0]!r}, as F5-TTS does"
        )
