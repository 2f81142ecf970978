"""From a prompt and what is to be said to speech, by any model that speaks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mfdistill.audio.pitch import mean_pitch
from mfdistill.audio.speaker import NoVoice, joined, partial_embeddings
from mfdistill.audio.units import spread_units
from mfdistill.data.texts import prepared
from mfdistill.distill.cosyvoice_synthesis import speak_tokens
from mfdistill.distill.f5_synthesis import speak_text
from mfdistill.distill.inference import Steps
from mfdistill.distill.opening import Model
from mfdistill.distill.speech import LEAST_PROMPT_S, LONGEST_S, Said, Speech, now
from mfdistill.distill.symbols_synthesis import speak_symbols
from mfdistill.errors import UserError


@torch.no_grad()
def synthesise(
    model: Model,
    prompt: Tensor,
    *,
    source: Tensor | None = None,
    text: str | None = None,
    prompt_text: str | None = None,
    speed: float = 1.0,
    steps: Steps | None = None,
    seed: int = 0,
) -> Speech:
    """Speech in the voice of ``prompt (s,)``: what ``source (s,)`` says (`token2mel`), or ``text``
    (`text2mel`).

    Args:
        prompt, source: at the task's sample rate, on the model's device.
        prompt_text: what the prompt says; with its length it gives the pace: a text lasts
            longer than it by the usual durations of what they say.
        speed: of the text; 2 is twice as fast.
        steps: a number or times; None is the schedule of the model.

    Raises:
        UserError: a prompt that is short or has no voice, an empty text, a character that the model
            does not know, too long a result, or an input of the other task.
    """
    began = time.perf_counter()
    task: Any = model.task
    hop, rate = task.config.stft.hop, task.sample_rate
    if len(prompt) < LEAST_PROMPT_S * rate:
        raise UserError(
            f"--prompt: lasts {len(prompt) / rate:.2f} s; give {LEAST_PROMPT_S:g} s or more of one voice"
        )
    gain = task.gain(prompt[None])
    z = task.target(prompt[None] * gain)
    cond: dict[str, Tensor] = {}
    if task.restores:
        raise UserError(f"{task.config.name}: restores recordings; use mfdistill restore")
    if not task.needs_text:
        if source is None or text is not None:
            raise UserError(
                "--text: this model says units, not text; give --tokens-from a recording of what is to be said"
            )
        hold = task.config.unit_frames
        # whole units, so that the next one begins a unit
        z = z[..., : z.shape[-1] // hold * hold]
        units = [task.units(wave * task.gain(wave[None])[0]) for wave in (prompt, source)]
        new = 1 + -(-len(source) // hop)
        symbols = torch.cat(
            [spread_units(units[0], hold, z.shape[-1]), spread_units(units[1], hold, new)]
        )
        try:
            voice = joined(partial_embeddings(prompt.cpu().numpy(), rate))
        except NoVoice as error:
            raise UserError(f"--prompt: {error}; give a recording of one voice") from error
        cond["speaker"] = torch.from_numpy(voice).float().to(z.device)[None]
        cond["pitch"] = mean_pitch(task.pitch(prompt))[None]
    else:
        if source is not None or text is None:
            raise UserError("--tokens-from: this model reads text; give --text and --prompt-text")
        if not (prompt_text or "").strip():
            raise UserError(
                "--prompt-text: empty; this model needs what the prompt says, for its pace"
            )
        said, wanted = prepared([str(prompt_text), text], task.config)
        lasts, given = (float(task.usual(part).sum()) for part in (wanted, said))
        new = max(1, round(z.shape[-1] * lasts / given / speed))
        symbols = torch.cat(
            [
                task.aligned(task.log_mel(prompt[None] * gain)[0], said),
                task.spread(wanted, new),
            ]
        ).to(z.device)
    if new * hop > LONGEST_S * rate:
        raise UserError(
            f"{'--text' if text else '--tokens-from'}: makes {new * hop / rate:.0f} s; split it below {LONGEST_S:g} s"
        )
    n, given = z.shape[-1] + new, z.shape[-1]
    y = torch.nn.functional.pad(z, (0, new))
    mask = torch.ones_like(y[:, :, :1])
    prompted = (torch.arange(n, device=z.device) < given).to(z)[None, None, None]
    cond |= {"y": y, "mask": mask, "prompt": prompted, "units": symbols[None]}
    cond = task.completed(cond)
    z_0 = task.path.prior(cond, task.start(cond, seed, "synthesis"))
    ready = now(z)
    z_1 = model.endpoint(z_0, cond, steps)
    flow_s = now(z) - ready
    # the vocoder hears the prompt before it
    z_1 = torch.cat([z, z_1[..., given:]], -1)
    wave = task.waveform(z_1, (n - 1) * hop)[0, given * hop :] / gain[0]
    return Speech(wave, flow_s, now(z) - began)


def speak(
    model: Model, said: Said, speed: float = 1.0, steps: Steps | None = None, seed: int = 0
) -> Speech:
    """Speech by any model that speaks, its way (``SPEAKERS``): arguments and errors as
    ``synthesise``'s.
    """
    return SPEAKERS[str(model.task.speaks)](model, said, speed, steps, seed)


def check_speaks(model: Model, path: object) -> None:
    """See that a model can be spoken with here.

    Raises:
        UserError: it restores recordings, or starts from what another program makes.
    """
    task = model.task
    if task.restores:
        raise UserError(
            f"{path}: is a {task.config.name} model, which restores recordings; use mfdistill restore"
        )
    if task.speaks not in SPEAKERS:
        raise UserError(
            f"{path}: a model of kind {task.config.name} starts from its text encoder's output, which is not here; "
            "sample it from Python, or export it (docs/foreign-tts.md)"
        )


def _own(model: Model, said: Said, speed: float, steps: Steps | None, seed: int) -> Speech:
    return synthesise(
        model,
        said.prompt,
        source=said.source,
        text=said.text,
        prompt_text=said.prompt_text,
        speed=speed,
        steps=steps,
        seed=seed,
    )


SPEAKERS: dict[str, Callable[[Model, Said, float, Steps | None, int], Speech]] = {
    "units": _own,
    "spread text": _own,
    "text": speak_text,
    "symbols": speak_symbols,
    "tokens": speak_tokens,
}
"""By ``Task.speaks``."""
