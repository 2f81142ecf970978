"""From a prompt and a text to F5-TTS's condition, and from the generated frames to the result: what
its sampler does around the solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mfdistill.audio.mel import LOG_FLOOR
from mfdistill.errors import UserError

MAX_FRAMES = 65536
SILENCE = math.log(LOG_FLOOR) + 1e-3
"""Largest log-Mel of digital silence."""


def f5_condition(
    prompt: Tensor,
    text: Tensor,
    duration: int | Tensor,
    lengths: Tensor | None = None,
    max_duration: int = MAX_FRAMES,
    vocabulary: int | None = None,
) -> dict[str, Tensor]:
    """The condition "cond", "text" and, for more than one sample, "mask" (see
    ``networks.f5.F5Network``).

    Args:
        prompt: log-Mel spectrogram (b, frames, mels) of the prompts.
        text: (b, nt) integers, of prompt and new text together, -1 where it has ended.
        duration: frames of prompt and new speech together, one number or (b,); at least one more
            than prompt frames or symbols.
        lengths: (b,) prompt frames that count; None: all.
        max_duration: no sample gets more frames.
        vocabulary: number of symbols, to check the text by.

    Raises:
        UserError: an empty text, an empty or silent prompt, or symbols outside the vocabulary.
    """
    b, frames, _ = prompt.shape
    if not frames:
        raise UserError("prompt: has no frames; give a recording of a second or more")
    if bool((prompt.amax((1, 2)) <= SILENCE).any()):
        raise UserError(
            "prompt: silent (every Mel band at its floor); give a recording of somebody speaking"
        )
    symbols = (text != -1).sum(1)
    if text.shape[0] != b or bool((symbols == 0).any()):
        raise UserError(
            f"text: {text.shape[0]} texts beside {b} prompts, with {symbols.tolist()} symbols; each needs a text, none empty"
        )
    if vocabulary is not None and int(text.max()) >= vocabulary:
        raise UserError(
            f"text: symbol {int(text.max())} is not in the vocabulary of {vocabulary}; take the vocabulary of this checkpoint"
        )
    lengths = (
        torch.full((b,), frames, device=prompt.device)
        if lengths is None
        else lengths.to(prompt.device)
    )
    wanted = torch.as_tensor(duration, device=prompt.device).expand(b)
    total = torch.maximum(torch.maximum(symbols.to(prompt.device), lengths) + 1, wanted).clamp(
        max=max_duration
    )
    n = int(total.max())
    position = torch.arange(n, device=prompt.device)
    cond = prompt.new_zeros(b, n, prompt.shape[2])
    cond[:, :frames] = prompt[:, :n]
    cond = cond.masked_fill(position[None, :, None] >= lengths[:, None, None], 0.0)
    inputs = {"cond": cond, "text": text}
    # a mask of ones is not the same as none, and the original has none for a single sample
    return inputs if b == 1 else {**inputs, "mask": position < total[:, None]}


def paste_prompt(
    z_1: Tensor, cond: Mapping[str, Tensor], lengths: Sequence[int] | Tensor
) -> Tensor:
    """``z_1`` (b, n, mels) with the prompt's own frames in the place of those generated;
    ``lengths`` (b,) as in ``f5_condition``.
    """
    lengths = torch.as_tensor(lengths, device=z_1.device)
    inside = torch.arange(z_1.shape[1], device=z_1.device) < lengths[:, None]
    return torch.where(inside[..., None], cond["cond"].to(z_1), z_1)


def f5_duration(prompt_frames: int, prompt_text: str, text: str, speed: float = 1.0) -> int:
    """Frames of prompt and new speech together, by F5-TTS's rule: as many frames per byte (UTF-8)
    as the prompt has; texts below 10 bytes are spoken at ``speed`` 0.3. The prompt's frames are its
    samples // 256.

    Raises:
        UserError: an empty text, or a speed that is not positive.
    """
    if not prompt_text or not text:
        raise UserError("text: empty; give the prompt's text and the text to speak")
    if speed <= 0:
        raise UserError(f"speed: {speed} must be above 0; 1 is the prompt's")
    size = len(text.encode())
    speed = 0.3 if size < 10 else speed
    return prompt_frames + int(prompt_frames / len(prompt_text.encode()) * size / speed)
