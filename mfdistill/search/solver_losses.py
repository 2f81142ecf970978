"""What a learned solver is judged by while it learns: waveforms against waveforms (Stream.FM, arXiv
2512.19442).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mfdistill.audio.resample import resample
from mfdistill.errors import UserError

WaveLoss = Callable[[Tensor, Tensor], Tensor]
"""``(made (b, s), clean (b, s)) -> ()``"""
WINDOWS_MS = (20, 32, 40)
_FLOOR = 1e-8


def log_stft_loss(made: Tensor, clean: Tensor, sample_rate: int) -> Tensor:
    """Mean over windows of 20, 32 and 40 ms (symmetric Hann, hops of a quarter, centred) of the
    mean squared difference of ``log10(max(|S|, 1e-8)^2)``; the phase has no part in it.
    """
    total = made.new_zeros(())
    for ms in WINDOWS_MS:
        n = sample_rate * ms // 1000
        total = total + (_log_power(made, n) - _log_power(clean, n)).square().mean()
    return total / len(WINDOWS_MS)


def _log_power(wave: Tensor, n: int) -> Tensor:
    window = torch.hann_window(n, periodic=False, dtype=wave.dtype, device=wave.device)
    spectrum = torch.view_as_real(torch.stft(wave, n, n // 4, window=window, return_complex=True))
    return spectrum.square().sum(-1).clamp_min(_FLOOR**2).log10()


def pesq_loss(sample_rate: int) -> WaveLoss:
    """The differentiable approximation of PESQ's disturbance in the package torch-pesq.

    Raises:
        UserError: not installed.
    """
    try:
        import torch_pesq  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--pesq: needs the package torch-pesq (pip install torch-pesq); leave the weight at 0 without it"
        ) from error
    model = torch_pesq.PesqLoss(1.0, sample_rate=sample_rate)

    def loss(made: Tensor, clean: Tensor) -> Tensor:
        return model.to(made.device)(clean, made).mean()

    return loss


def speech_feature_loss(path: str, sample_rate: int, layer: int = 8) -> WaveLoss:
    """SpeechBERTScore's precision as a loss: 1 - the mean over the made frames of the greatest
    cosine similarity to any clean frame, of the hidden states ``layer`` of a HuBERT-like model of
    the package transformers (mHuBERT-147, layer 8, in Stream.FM).

    Raises:
        UserError: transformers is not installed, or no model is at ``path`` (a folder or hub id).
    """
    try:
        from transformers import AutoModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--speech-model: needs the package transformers (pip install transformers); leave it out without it"
        ) from error
    try:
        model: nn.Module = AutoModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--speech-model {path}: no speech model could be loaded ({str(error).splitlines()[0]})"
        ) from error
    model.eval().requires_grad_(False)

    def features(wave: Tensor) -> Tensor:
        if sample_rate != 16000:
            wave = resample(wave, sample_rate, 16000)
        wave = (wave - wave.mean(-1, keepdim=True)) / (wave.std(-1, keepdim=True) + 1e-7)
        hidden = model.to(wave.device)(wave, output_hidden_states=True).hidden_states[layer]
        return nn.functional.normalize(hidden, dim=-1)

    def loss(made: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            reference = features(clean)
        return 1 - torch.matmul(features(made), reference.transpose(1, 2)).amax(-1).mean()

    return loss
