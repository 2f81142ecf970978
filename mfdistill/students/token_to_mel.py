"""From speech tokens to a Mel spectrogram by a teacher or student of CosyVoice, as its own program
does it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mfdistill.flow import jump, solve
from mfdistill.students.student import Student
from mfdistill.systems.cosyvoice_front import TokenFront
from mfdistill.teachers.field import Field


@torch.no_grad()
def token_to_mel(
    model: Field | Student,
    front: TokenFront,
    token: Tensor,
    prompt_token: Tensor,
    prompt_feat: Tensor,
    embedding: Tensor,
    steps: Sequence[float] | int,
    z_0: Tensor | None = None,
    streaming: bool = False,
    finalize: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The Mel (b, mels, frames after the prompt) of speech tokens (``TokenFront.condition``): a
    teacher by Euler steps, a student by jumps.

    Args:
        steps: a number of uniform steps or times; CosyVoice's sampler is a teacher at
            ``cosine_times(10)``, Chatterbox's a student at 2.
        z_0: (b, mels, prompt and other frames) noise; default a teacher's prior, for a student
            fresh noise.
        streaming: of front end and flow together.
    """
    cond = front.condition(
        token, prompt_token, prompt_feat, embedding, streaming=streaming, finalize=finalize
    )
    if streaming:
        cond["streaming"] = torch.tensor(True, device=cond["mu"].device)
    mu = cond["mu"]
    if isinstance(model, Student):
        z_0 = (
            torch.randn(mu.shape, generator=generator, dtype=mu.dtype).to(mu.device)
            if z_0 is None
            else z_0
        )
        z_1 = jump(lambda z, t, r: model(z, t, r, cond), z_0, steps)
    else:
        z_1 = solve(
            lambda z, t: model.velocity(z, t, cond),
            model.prior(cond, generator) if z_0 is None else z_0,
            steps,
            "euler",
        )
    return z_1[:, :, prompt_feat.shape[1] :]
