"""From speech tokens, a prompt and a speaker to speech by a model of a system that reads them."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from mfdistill.data.token_files import has_embedding, read_embedding, read_tokens
from mfdistill.distill.inference import Steps
from mfdistill.distill.opening import Model, flow_task
from mfdistill.distill.speech import LEAST_PROMPT_S, LONGEST_S, Said, Speech, now
from mfdistill.errors import UserError
from mfdistill.systems.cosyvoice_front import FRONT


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
    model: Model, prompt: Tensor, prompt_tokens: Tensor, tokens: Tensor, embedding: Tensor, speed: float = 1.0,
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
    began, task = time.perf_counter(), flow_task(model)
    front, vocoder = task.front, task.vocoder
    if front is None:
        raise UserError(
            f"this model has no {FRONT}, which embeds speech tokens; distil from a whole flow.pt (it was trained on features mu)"
        )
    assert vocoder is not None  # distill.opening.ready
    rate, device = task.sample_rate, model.device
    if not LEAST_PROMPT_S * rate <= len(prompt) <= LONGEST_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} to {LONGEST_S:g} s of one voice"
        )
    size = front.embedding_dim
    if len(embedding) != size:
        raise UserError(
            f"--speaker: {len(embedding)} numbers, but this flow wants {size}; take CosyVoice's own speaker encoder (CAM++)"
        )
    mel, given = aligned_prompt(
        task.mel(prompt).T[None].to(device), prompt_tokens[None].to(device), front.ratio
    )
    cond = front.condition(tokens[None].to(device), given, mel, embedding[None].to(device))
    z_0 = task.path.prior(cond, task.start(cond, seed, "synthesis"))
    ready = now(z_0)
    z_1 = model.endpoint(z_0, cond, steps)[:, :, mel.shape[1] :]
    flow_s = now(z_1) - ready
    if speed != 1:
        z_1 = F.interpolate(z_1, size=max(2, int(z_1.shape[2] / speed)), mode="linear")
    wave = vocoder(z_1)[0]
    return Speech(wave, flow_s, now(wave) - began)


def speak_tokens(
    model: Model, said: Said, speed: float = 1.0, steps: Steps | None = None, seed: int = 0
) -> Speech:
    """``speak_cosyvoice`` of the tokens and the x-vector in files.

    Raises:
        UserError: as there, and files that are not there or hold something else.
    """
    if said.prompt_tokens is None:
        raise UserError(
            "--prompt-tokens: missing; give the prompt's speech tokens, by CosyVoice's tokenizer"
        )
    if said.speaker is None and not has_embedding(said.prompt_tokens):
        raise UserError(
            "--speaker: missing; give the speaker's x-vector, by CosyVoice's encoder, or --prompt-tokens with an embedding"
        )
    return speak_cosyvoice(
        model,
        said.prompt,
        read_tokens(said.prompt_tokens, "--prompt-tokens"),
        read_tokens(str(said.tokens)),
        read_embedding(said.speaker or said.prompt_tokens),
        speed,
        steps,
        seed,
    )
