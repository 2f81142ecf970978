"""The Mel front ends of F5-TTS and CosyVoice, against torchaudio's and librosa's filters and
against what can be computed by hand.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mfdistill.audio.resample import torchaudio_fault
from mfdistill.audio.speech_mel import SpeechMelConfig, prompt_gain, speech_log_mel
from mfdistill.errors import UserError
from mfdistill.systems.table import SYSTEMS

SPEECH_MELS = {
    name: system.mel.mel
    for name, system in SYSTEMS.items()
    if system.mel is not None and system.mel.recordings
}
SPEECH_MELS["f5-bigvgan"] = SpeechMelConfig()


def speechlike(rate: int, seconds: float = 0.5) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    t = torch.arange(int(rate * seconds)) / rate
    return torch.stack(
        [
            0.3 * torch.sin(2 * math.pi * (200 + 900 * t) * t),
            0.05 * torch.randn(len(t), generator=g),
        ]
    )


@pytest.mark.parametrize("name", list(SPEECH_MELS))
def test_against_the_libraries_that_the_originals_use(name: str) -> None:
    config = SPEECH_MELS[name]
    wave = speechlike(config.sample_rate)
    if config.scale == "htk":
        if fault := torchaudio_fault():
            pytest.skip(fault)
        from torchaudio import transforms

        want = (
            transforms.MelSpectrogram(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                hop_length=config.hop,
                n_mels=config.n_mels,
                power=1,
                norm=None,
            )(wave)
            .clamp(min=config.floor)
            .log()
        )[:, :, : config.frames(wave.shape[1])]
    else:
        # as what is computed here; single precision shows in bands that the tone does not reach
        wave = wave.double()
        filters = pytest.importorskip("librosa").filters.mel(
            sr=config.sample_rate,
            n_fft=config.n_fft,
            n_mels=config.n_mels,
            fmin=0,
            fmax=config.f_max,
        )
        padded = np.pad(
            wave.double().numpy(), ((0, 0), (config.padding, config.padding)), mode="reflect"
        )
        starts = range(0, padded.shape[1] - config.n_fft + 1, config.hop)
        frames = (
            np.stack([padded[:, start : start + config.n_fft] for start in starts], 1)
            * np.hanning(config.n_fft + 1)[:-1]
        )
        magnitude = np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + 1e-9).transpose(0, 2, 1)
        want = torch.from_numpy(np.log(np.maximum(filters @ magnitude, 1e-5)))
    got = speech_log_mel(wave, config)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "frames"), [("f5", 94), ("f5-bigvgan", 93), ("cosyvoice2", 50), ("cosyvoice3", 50)]
)
def test_frames_per_second(name: str, frames: int) -> None:
    config = SPEECH_MELS[name]
    assert config.frame_rate == (93.75 if name.startswith("f5") else 50)
    assert speech_log_mel(torch.zeros(1, config.sample_rate), config).shape == (
        1,
        config.n_mels,
        frames,
    )


def test_a_tone_is_loudest_in_its_band_and_silence_is_the_floor() -> None:
    config = SPEECH_MELS["f5"]
    t = torch.arange(12000) / 24000
    mel = speech_log_mel(torch.sin(2 * math.pi * 1000 * t)[None], config)[0, :, 20]
    top = 2595 * math.log10(1 + 12000 / 700)
    band = 2595 * math.log10(1 + 1000 / 700) / top * 101 - 1
    assert abs(int(mel.argmax()) - band) <= 1
    torch.testing.assert_close(
        speech_log_mel(torch.zeros(1, 12000), config), torch.full((1, 100, 47), math.log(1e-5))
    )


def test_quiet_prompts_are_raised_and_others_left() -> None:
    wave = torch.ones(3, 100) * torch.tensor([0.05, 0.2, 0.0])[:, None]
    torch.testing.assert_close(prompt_gain(wave), torch.tensor([[2.0], [1.0], [1.0]]))


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="more than 720 samples"):
        speech_log_mel(torch.zeros(1, 700), SPEECH_MELS["cosyvoice2"])
    with pytest.raises(UserError, match="f_max"):
        SpeechMelConfig(f_max=13000)
