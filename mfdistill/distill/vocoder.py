"""From Mel to sound: a `vocode` model of this program behind a Mel task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mfdistill.errors import UserError
from mfdistill.flow import noise
from mfdistill.tasks.mel import GRIFFIN_LIM, MelTask


def attach_vocoder(
    task: Any,
    device: torch.device | str = "cpu",
    path: str | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Give a Mel task its vocoder: ``path``, or the one that its configuration names. Does nothing
    for other tasks and for Griffin-Lim.

    Args:
        steps: of the vocoder; None is the schedule saved with it (a teacher's 10 steps).
        seed: of its noise, which is a function of the frame's number.

    Raises:
        UserError: no such model, no vocoder, or one of another Mel spectrogram.
    """
    if not isinstance(task, MelTask):
        return
    path = path or task.config.vocoder
    if path == GRIFFIN_LIM:
        task.vocoder = None
        return
    from mfdistill.distill.inference import open_model

    try:
        model = open_model(path, device)
    except UserError as error:
        hint = "a vocoder is a vocode model's folder (--vocoder, --speech.vocoder) or griffin-lim"
        raise UserError(f"vocoder {error}; {hint}") from error
    own, other = task.config, model.task.config
    if other.name != "vocode" or (own.stft, own.n_mels) != (other.stft, other.n_mels):
        raise UserError(
            f"--vocoder {path}: a {other.name} model at {other.stft.sample_rate} Hz with {other.n_mels} Mel bands, hop {other.stft.hop}; "
            f"this one needs vocode at {own.stft.sample_rate} Hz with {own.n_mels} bands, hop {own.stft.hop}, in the same windows"
        )

    @torch.no_grad()
    def vocode(y: Tensor, length: int) -> Tensor:
        _, channels, freqs, frames = y.shape
        eps = noise(
            seed, torch.arange(frames), "vocoder", (channels, freqs), device=y.device
        ).permute(1, 2, 0)
        cond = model.task.completed({"y": y})
        z_0 = model.task.path.prior(cond, eps[None].expand_as(y))
        return model.task.waveform(model.endpoint(z_0, cond, steps), length)

    task.vocoder = vocode
