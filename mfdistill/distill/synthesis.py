"""From a prompt and units or text to speech, by a model of a Mel task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mfdistill.audio.pitch import mean_pitch
from mfdistill.audio.speaker import NoVoice, joined, partial_embeddings
from mfdistill.audio.units import spread_units
from mfdistill.data.texts import prepared
from mfdistill.errors import UserError
from mfdistill.flow import noise

if TYPE_CHECKING:
    from mfdistill.distill.inference import Model, Steps

LEAST_PROMPT_S = 1.0
LONGEST_S = 30.0


@dataclass(frozen=True)
class Speech:
    """What was generated, ``wave (s,)`` at the task's rate, and the seconds that the flow and
    everything took.
    """

    wave: Tensor
    flow_s: float
    whole_s: float


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
        prompt_text: what the prompt says; with its length it gives the pace, so a text lasts as
            long as its share of characters.
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
        # an unknown character is told as such, before lengths are made
        task.encode(wanted)
        new = max(1, round(z.shape[-1] * len(wanted) / len(said) / speed))
        symbols = task.spread(f"{said} {wanted}", z.shape[-1] + new).to(z.device)
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
    eps = noise(seed, torch.arange(n), "synthesis", y.shape[1:3], device=z.device).permute(1, 2, 0)[
        None
    ]
    z_0 = task.path.prior(cond, eps)
    ready = now(z)
    z_1 = model.endpoint(z_0, cond, steps)
    flow_s = now(z) - ready
    # the vocoder hears the prompt before it
    z_1 = torch.cat([z, z_1[..., given:]], -1)
    wave = task.waveform(z_1, (n - 1) * hop)[0, given * hop :] / gain[0]
    return Speech(wave, flow_s, now(z) - began)


def now(like: Tensor) -> float:
    """Seconds, when all that was asked of the device is done."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()
