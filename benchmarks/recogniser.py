"""A small recogniser of letters for voices that general recognisers mishear: residual convolutions
over a log-Mel spectrogram, trained with CTC on recordings only, never on generated speech.

PocketSphinx hears nine of ten words of espeak-ng's own recordings wrong, so it cannot tell one
system from another there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfdistill.audio.features import StftConfig
from mfdistill.audio.io import read_audio
from mfdistill.audio.mel import MelConfig, log_mel
from mfdistill.checkpoint import load_tensors, write_tensors

RATE = 16000
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
"""Class i + 1 is the i-th; class 0 is CTC's blank."""
STFT, MEL = StftConfig(sample_rate=RATE, n_fft=512, hop=256), MelConfig(n_mels=80)
DILATIONS = (1, 2, 4, 1, 2, 4, 1, 2)


class Recogniser(nn.Module):
    """``(b, 80, n)`` ln Mel magnitudes to ``(b, n', 29)`` log-probabilities of letters at every
    second frame.
    """

    def __init__(self, channels: int = 160):
        super().__init__()
        self.first = nn.Conv1d(80, channels, 5, stride=2, padding=2)
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for _ in DILATIONS)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, 5, padding=2 * d, dilation=d) for d in DILATIONS
        )
        self.last = nn.Conv1d(channels, 1 + len(LETTERS), 1)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + F.dropout(F.silu(conv(norm(x))), 0.1, self.training)
        return self.last(x).transpose(1, 2).log_softmax(-1)

    @torch.no_grad()
    def words(self, wave: np.ndarray) -> str:
        """What it hears in a waveform (s,) at 16 kHz, in lower-case letters."""
        best = self.eval()(mel_of(wave)[None])[0].argmax(-1)
        kept = best[torch.cat([torch.tensor([True]), best[1:] != best[:-1]])]
        letters = (LETTERS[int(i) - 1] for i in kept if i > 0)
        return " ".join("".join(letters).split())


def mel_of(wave: np.ndarray) -> Tensor:
    """(80, n): ln Mel magnitudes over their mean, so that the level does not count."""
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(wave, np.float32))[None], STFT, MEL)[0]
    return mel - mel.mean()


def trained(
    file: Path, recordings: Mapping[Path, str], steps: int = 3000, batch: int = 16, seed: int = 0
) -> Recogniser:
    """The recogniser of ``file``, or one trained on ``recordings`` (file to words) and kept there.

    Every sample is resampled by up to 8 % and gets noise and masked bands, so that a vocoder's
    sound does not throw it.
    """
    network = Recogniser()
    if file.is_file():
        network.load_state_dict(load_tensors(file))
        return network
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    names = list(recordings)
    mels = [mel_of(read_audio(name, RATE)) for name in names]
    wanted = [torch.tensor([1 + LETTERS.index(c) for c in recordings[name]]) for name in names]
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    curve = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = draw.choice(len(names), batch, replace=False)
        loss = ctc(network, [varied(mels[i], draw) for i in chosen], [wanted[i] for i in chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        curve.step()
    write_tensors(file, network.state_dict())
    return network


def varied(mel: Tensor, draw: np.random.Generator) -> Tensor:
    """Another pace, noise, and a band and a moment without sound."""
    frames = round(mel.shape[1] * draw.uniform(0.92, 1.08))
    mel = F.interpolate(mel[None], size=frames, mode="linear")[0]
    mel = mel + 0.3 * torch.from_numpy(draw.standard_normal(mel.shape).astype(np.float32))
    low, first = int(draw.integers(70)), int(draw.integers(frames))
    mel[low : low + int(draw.integers(10))] = 0
    mel[:, first : first + int(draw.integers(6))] = 0
    return mel


def ctc(network: Recogniser, mels: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The loss of a batch, ()."""
    frames = torch.tensor([mel.shape[1] for mel in mels])
    padded = nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True)
    found = network.train()(padded.transpose(1, 2))
    return F.ctc_loss(
        found.transpose(0, 1),
        torch.cat(list(wanted)),
        (frames + 1) // 2,
        torch.tensor([len(text) for text in wanted]),
    )
