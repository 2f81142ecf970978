"""Losses of signals: features are turned into waveforms first, in single precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mfdistill.audio.mel_loss import log_mel_loss
from mfdistill.distill.objectives.base import Batch
from mfdistill.tasks import Restoration

_SILENCE = 1e-4  # of full scale: below it a signal is compared with this


def on_signals(compare: Callable[[Tensor, Tensor, int], Tensor]) -> Any:
    """A loss ``(task, z_1, batch) -> (b,)`` of one of two signals ``(b, s), (b, s), Hz``."""

    def loss(task: Restoration, z_1: Tensor, batch: Batch) -> Tensor:
        clean = batch["z_1"]
        length = (clean.shape[-1] - 1) * task.config.stft.hop
        with torch.autocast(clean.device.type, enabled=False):
            with torch.no_grad():
                reference = task.waveform(clean.float(), length)
            return compare(task.waveform(z_1.float(), length), reference, task.sample_rate)

    return loss


def time_l1(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """``mean |a - b| / mean |b|``, (b,)."""
    level = reference.abs().mean(1).clamp_min(_SILENCE)
    return (estimate - reference).abs().mean(1) / level


def negative_si_sdr(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Minus the scale-invariant signal-to-distortion ratio (arXiv 1811.02508) in bels, (b,); at
    most 3 in size, so that silence and perfect answers do not rule a batch.
    """
    a = estimate - estimate.mean(1, keepdim=True)
    b = reference - reference.mean(1, keepdim=True)
    tiny = _SILENCE**2 * b.shape[1]
    part = (a * b).sum(1, keepdim=True) / (b.square().sum(1, keepdim=True) + tiny) * b
    signal, noise = part.square().sum(1), (a - part).square().sum(1)
    return -((signal + 1e-3 * noise + tiny) / (noise + 1e-3 * signal + tiny)).log10()


log_mel = on_signals(log_mel_loss)
waveform_l1 = on_signals(time_l1)
si_sdr = on_signals(negative_si_sdr)
