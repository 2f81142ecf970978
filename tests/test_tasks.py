"""Tasks: what they condition on, at which level, and back to audio."""

from __future__ import annotations

import pytest
import torch

from mfdistill.errors import UserError
from mfdistill.tasks import default_task, get_task

RESTORATION = ("enhance", "vocode", "phase", "dereverb", "codec", "bandwidth")


@pytest.mark.parametrize("name", RESTORATION)
@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("length", [1, 37, 4000, 16001])
def test_features_return_to_the_waveform(name: str, rate: int, length: int) -> None:
    task = get_task(default_task(name, rate))
    time = torch.arange(length) / rate
    wave = 0.3 * torch.sin(2 * torch.pi * 440 * time + 1)[None]
    back = task.waveform(task.target(wave), length)
    assert back.shape == wave.shape
    torch.testing.assert_close(back, wave, rtol=0, atol=5e-3)  # the Nyquist bin is not kept


def test_level_is_the_peak_of_the_input_and_silence_keeps_its_own() -> None:
    task = get_task(default_task("enhance"))
    wave = torch.stack([torch.tensor([0.0, -0.5, 0.25]), torch.zeros(3)])
    assert torch.equal(task.gain(wave), torch.tensor([[2.0], [1.0]]))


def test_vocoder_is_given_no_phase() -> None:
    task = get_task(default_task("vocode"))
    y = task.condition(torch.randn(2, 8000))["y"]
    assert torch.equal(y[:, 1], torch.zeros_like(y[:, 1]))
    assert (y[:, 0] >= 0).all()


def test_vocoder_condition_does_not_depend_on_the_phase_of_a_tone() -> None:
    task = get_task(default_task("vocode"))
    time = torch.arange(16000) / 16000
    a, b = (
        task.condition(torch.sin(2 * torch.pi * 1000 * time + phase)[None])["y"][..., 5:-5]
        for phase in (0.0, 1.3)
    )
    assert (a - b).norm() < 0.02 * a.norm()


def test_degraded_vocoder_input_does_not_depend_on_the_sign_of_the_speech() -> None:
    task = get_task(default_task("vocode"))
    wave = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(task.degrade(wave), task.degrade(-wave))
    assert torch.equal(get_task(default_task("enhance")).degrade(wave), wave)


def test_phase_retrieval_is_given_the_magnitude_of_the_target() -> None:
    task = get_task(default_task("phase"))
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    x, y = task.target(wave), task.condition(wave)["y"]
    torch.testing.assert_close(y[:, 0], x.norm(dim=1))
    assert torch.equal(y[:, 1], torch.zeros_like(y[:, 1])) and torch.equal(
        task.degrade(wave), task.degrade(-wave)
    )


@pytest.mark.parametrize("name", RESTORATION)
@pytest.mark.parametrize(("framing", "window_ms"), [("32/16", 32), ("16/8", 16)])
def test_causal_presets(name: str, framing: str, window_ms: int) -> None:
    """Stream.FM's front end: half-overlapping windows; spread 0.25 around zero-phase features; no
    level where the input's own counts.
    """
    config = default_task(name, 16000, causal=True, framing=framing)
    assert (config.stft.causal, config.stft.n_fft, config.stft.hop) == (
        True,
        16 * window_ms,
        8 * window_ms,
    )
    assert config.stft.window == ("hann" if name == "vocode" else "sqrt-hann")
    assert config.normalise == ("none" if name == "enhance" else "peak")
    if name in ("vocode", "phase"):
        assert (config.sigma_0, config.sigma_1, config.prior_mean, config.prior_shape) == (
            0.25,
            0.001,
            "y",
            "flat",
        )
    wave, task = (
        0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)),
        get_task(config),
    )
    later = wave.clone()
    later[:, 2000:] += 1
    first = 2000 // config.stft.hop  # frame k ends before sample (k + 1) hop
    before, after = task.condition(wave)["y"], task.condition(later)["y"]
    assert torch.equal(before[..., :first], after[..., :first])


def test_every_task_says_how_its_input_is_made() -> None:
    made = {name: get_task(default_task(name)).degradation for name in RESTORATION}
    assert made == {
        "enhance": "noise", "vocode": "none", "phase": "none", "dereverb": "reverb", "codec": "codec", "bandwidth": "bandwidth",
    }  # fmt: skip


def test_unknown_task_and_rate_are_named() -> None:
    with pytest.raises(UserError, match="task 'denoise' is unknown.*enhance, vocode, phase"):
        default_task("denoise")
    with pytest.raises(UserError, match="4000: must lie between 8000 and 48000"):
        default_task("vocode", 4000)
