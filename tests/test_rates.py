"""Our own tasks at 24, 44.1 and 48 kHz: presets from milliseconds, metrics that resample to what
they know, and a whole chain.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill.cli import main
from mfdistill.errors import UserError
from mfdistill.metrics import METRICS
from mfdistill.networks.sizes import UNetSizes, unet_config
from mfdistill.tasks import default_task, get_task
from mfdistill.tasks.task import FRAMINGS, framed

TASKS = ("enhance", "vocode", "phase", "dereverb", "codec", "bandwidth")


def test_windows_are_as_long_as_they_are_called() -> None:
    assert [framed(rate, "32/16") for rate in (8000, 16000, 24000, 44100, 48000)] == [
        *((256, 128), (512, 256), (768, 384), (1408, 704), (1536, 768))
    ]
    for rate in (8000, 16000, 24000, 48000):
        for name, (window_ms, hop_ms) in FRAMINGS.items():
            assert framed(rate, name) == (rate * window_ms / 1000, rate * hop_ms / 1000)
    for name, lengths in FRAMINGS.items():
        for samples, ms in zip(framed(44100, name), lengths, strict=True):
            assert abs(samples / 44.1 / ms - 1) < 0.016
    for rate in (7999, 48001):
        with pytest.raises(
            UserError, match=f"--sample-rate {rate}: must lie between 8000 and 48000"
        ):
            default_task("enhance", rate)


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
@pytest.mark.parametrize("name", TASKS)
def test_features_return_to_the_waveform(name: str, rate: int) -> None:
    config = default_task(name, rate)
    assert config.stft.bins % 8 == 0  # compact's band stride
    assert unet_config("ncsnpp", UNetSizes(), config.stft.bins, False, False)
    task = get_task(config)
    wave = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(rate // 3) / rate + 1)[None]
    back = task.waveform(task.target(wave), wave.shape[1])
    torch.testing.assert_close(back, wave, rtol=0, atol=5e-3)
    if name == "vocode":
        assert config.n_mels == {24000: 100, 44100: 128, 48000: 128}[rate]
        assert torch.isfinite(task.condition(wave)["y"]).all()


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
def test_metrics_resample_to_what_they_know(rate: int) -> None:
    """The score is that of the same recordings at 16 kHz, but for what resampling costs."""
    clean = np.concatenate([voice(seed, 1.5, 48000) for seed in (1, 2)])
    noisy = clean + 0.02 * np.random.default_rng(0).standard_normal(clean.size).astype(np.float32)

    def at(wanted: int, name: str) -> float:
        a, b = (soxr.resample(wave, 48000, wanted) for wave in (noisy, clean))
        return float(METRICS[name].fn(a, b, wanted)[METRICS[name].primary])

    for name, apart in (("pesq", 0.05), ("estoi", 0.01), ("spksim", 0.01), ("dnsmos", 0.1)):
        assert abs(at(rate, name) - at(16000, name)) < apart, name
    for name in ("sisdr", "lsd", "mcd"):  # of the whole band
        assert np.isfinite(at(rate, name))


def corpus_at(rate: int, folder: Path) -> list[str]:
    corpus = make_corpus(folder)
    for file in corpus.rglob("*.wav"):
        wave, own = soundfile.read(file, dtype="float32")
        soundfile.write(file, soxr.resample(wave, own, rate), rate)
    return ["--data", str(corpus), "--data.crop-s", "0.3", *QUICK, "--valid-files", "0"]


def test_a_vocoder_of_24_khz(tmp_path: Path) -> None:
    common = corpus_at(24000, tmp_path / "corpus")
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    made = ["teacher-train", "--task", "vocode", "--sample-rate", "24000", "--out", teacher, *SMALL]
    assert main([*made, *common]) == 0
    assert main(["student-distill", "--teacher", teacher, "--out", student, *common]) == 0
    evaluate = [
        "evaluate",
        "--student",
        student,
        "--teacher",
        teacher,
        "--out",
        str(tmp_path / "e"),
        "--limit",
        "1",
    ]
    nfe = ["--student-nfe", "1", "--teacher-nfe", "2", "--audio", "1", "--metrics", "pesq"]
    assert main([*evaluate, *nfe]) == 0
    rows = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert {row["sample_rate"] for row in rows} == {24000} and rows[-1]["pesq_mode"] == "wb"
    (made_file, *_) = sorted((tmp_path / "e" / "audio").rglob("student*.wav"))
    assert soundfile.info(made_file).samplerate == 24000


def test_an_enhancer_of_48_khz(tmp_path: Path) -> None:
    common, teacher = corpus_at(48000, tmp_path / "corpus"), str(tmp_path / "teacher")
    made = [
        "teacher-train",
        "--task",
        "enhance",
        "--sample-rate",
        "48000",
        "--out",
        teacher,
        *SMALL,
    ]
    assert main([*made, *common]) == 0
    source = tmp_path / "in.wav"
    soundfile.write(source, voice(3, 0.5, 44100), 44100)
    assert main(["restore", teacher, str(source), str(tmp_path / "out.wav"), "--nfe", "2"]) == 0
    told = soundfile.info(tmp_path / "out.wav")
    assert (told.samplerate, told.frames) == (44100, soundfile.info(source).frames)
