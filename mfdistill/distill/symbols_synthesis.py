"""From a prompt and numbers of symbols to speech by a student or teacher of ZipVoice, as its
program does it around its network.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from mfdistill.audio.speech_mel import prompt_gain
from mfdistill.data.token_files import read_tokens
from mfdistill.distill.inference import Steps
from mfdistill.distill.opening import Model, flow_task
from mfdistill.distill.speech import LEAST_PROMPT_S, LONGEST_S, Said, Speech, now
from mfdistill.errors import UserError
from mfdistill.tasks.mel_prior import noise


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
    model: Model, said: Said, speed: float = 1.0, steps: Steps | None = None, seed: int = 0
) -> Speech:
    """What the symbols in the file ``said.tokens`` say in the prompt's voice, without the prompt,
    at its level.

    Args:
        speed: 2 is twice as fast. steps: a number or times; None is the model's own schedule.
        seed: of the noise, on the CPU.

    Raises:
        UserError: files that are not there or hold something else, a prompt that is short, symbols
            outside the table, or too long a result.
    """
    began, task, prompt = time.perf_counter(), flow_task(model), said.prompt
    assert task.vocoder is not None  # distill.opening.ready
    rate, hop, device = task.sample_rate, task.config.mel.hop, model.device
    if len(prompt) < LEAST_PROMPT_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} s or more of one voice"
        )
    if said.prompt_tokens is None:
        raise UserError("--prompt-tokens: missing; give the numbers of the prompt's symbols")
    given = read_tokens(said.prompt_tokens, "--prompt-tokens")
    tokens, size = read_tokens(str(said.tokens)), int(model.config["network"]["config"]["vocab_size"])  # fmt: skip
    for option, symbols in (("--prompt-tokens", given), ("--tokens", tokens)):
        if int(symbols.max()) >= size:
            raise UserError(
                f"{option}: symbol {int(symbols.max())} is not in the table of {size}; take this checkpoint's tokens.txt"
            )
    gain = prompt_gain(prompt[None])
    mel = task.mel(prompt * gain[0]).T[None].to(device)
    cond = symbols_request(mel, given, tokens, speed)
    n = cond["cond"].shape[1]
    if (n - mel.shape[1]) * hop > LONGEST_S * rate:
        raise UserError(
            f"--tokens: makes {(n - mel.shape[1]) * hop / rate:.0f} s; split them below {LONGEST_S:g} s"
        )
    z_0 = noise([n], mel.shape[2], seed=seed, like=mel)
    ready = now(z_0)
    z_1 = model.endpoint(z_0, cond, steps)[:, mel.shape[1] :]
    flow_s = now(z_1) - ready
    wave = task.vocoder(z_1.transpose(1, 2))[0] / gain[0].to(device)
    return Speech(wave, flow_s, now(wave) - began)
