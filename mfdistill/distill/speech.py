"""What a model is asked to say, and what it said."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_PROMPT_S = 1.0
LONGEST_S = 30.0


@dataclass(frozen=True)
class Said:
    """A request: the voice, ``prompt (s,)`` at the model's rate, and what is to be said: what a
    recording ``source (s,)`` says, a ``text``, or speech ``tokens`` (a file). ``prompt_text``,
    ``prompt_tokens`` and ``speaker`` say the same of the prompt, the last two by files.
    """

    prompt: Tensor
    source: Tensor | None = None
    text: str | None = None
    prompt_text: str | None = None
    tokens: str | None = None
    prompt_tokens: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Speech:
    """What was generated, ``wave (s,)`` at the task's rate, and the seconds that the flow and
    everything took.
    """

    wave: Tensor
    flow_s: float
    whole_s: float


def now(like: Tensor) -> float:
    """Seconds, when all that was asked of the device is done."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()
