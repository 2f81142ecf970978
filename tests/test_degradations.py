"""Degradations: aligned, deterministic, what they say they do; pairs that ``degrade`` writes; the
spread measured on data.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.audio.bandwidth import RESAMPLERS, band_limited
from mfdistill.audio.codecs import CODECS, coded
from mfdistill.audio.resample import torchaudio_fault
from mfdistill.audio.reverb import reverberate, simulate_response, trim_response
from mfdistill.commands.degrade import Degrade
from mfdistill.commands.degrade import run as degrade
from mfdistill.data import open_eval, open_train
from mfdistill.data.config import DataConfig
from mfdistill.distill.spread import measure_spread, smoothed
from mfdistill.errors import UserError
from mfdistill.tasks import default_task, get_task

RATE = 16000


def speechlike(seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Harmonics with a falling envelope, in syllables, and some breath."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    voiced = sum(
        np.sin(2 * np.pi * 120 * h * time + rng.uniform(0, 6)) / h for h in range(1, rate // 240)
    )
    return (
        0.05 * voiced * (1 + np.sin(2 * np.pi * 4 * time)) + 0.01 * rng.standard_normal(time.size)
    ).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        for k in range(2):
            file = tmp_path / "clean" / split / "a" / f"{split}{k}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, speechlike(0.6, 8000, k), 8000)
    return tmp_path


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which b is behind a."""
    size = 2 * a.size
    correlation = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    found = int(np.abs(correlation).argmax())
    return found - size if found > size // 2 else found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_codecs_keep_length_and_time_and_lose_something(codec: str, rate: int) -> None:
    clean = speechlike(1.0, rate)
    made = coded(clean, rate, codec)
    assert made.shape == clean.shape and made.dtype == np.float32
    assert abs(lag(clean, made)) <= 1
    error = float(np.square(made - clean).mean() / np.square(clean).mean())
    assert 1e-5 < error < 0.7, error


def test_more_bits_are_better_and_impossible_ones_are_refused() -> None:
    clean = speechlike()
    errors = [
        float(np.square(coded(clean, RATE, "opus", kbps) - clean).mean())
        for kbps in (6.0, 16.0, 64.0)
    ]
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(UserError, match="--data.codec-kbps 3: opus has 6 to 256"):
        coded(clean, RATE, "opus", 3.0)
    with pytest.raises(UserError, match="--data.codec lyra: unknown.*opus"):
        coded(clean, RATE, "lyra")


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_resamplers_cut_what_is_above_and_keep_what_is_below(resampler: str) -> None:
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (1000, 6000))
    inside = slice(1000, -1000)
    if resampler.startswith("kaiser") and (fault := torchaudio_fault()):
        pytest.skip(fault)
    made = band_limited(low + high, RATE, 8000, resampler)
    assert made.dtype == np.float32 and float(np.abs(made - low)[inside].max()) < 0.02
    assert band_limited(low, RATE, RATE, resampler) is low


def test_reverberation_begins_at_once_and_keeps_the_level() -> None:
    clean = speechlike()
    response = trim_response(np.array([0, 0.1, -2.0, 1.0, 0.5]), RATE)
    assert np.allclose(response, [1, -0.5, -0.25])
    wet = reverberate(clean, response)
    plain = np.convolve(clean, response)[: clean.size]
    assert np.allclose(
        wet / np.sqrt(np.mean(wet**2)), plain / np.sqrt(np.mean(plain**2)), atol=1e-4
    )
    assert np.mean(wet**2) == pytest.approx(np.mean(clean**2), rel=1e-4)
    for bad in (np.zeros(3), np.array([np.nan, 1.0]), np.zeros(0)):
        with pytest.raises(ValueError, match="silent"):
            trim_response(bad, RATE)


@pytest.mark.skipif(
    importlib.util.find_spec("pyroomacoustics") is None, reason="pyroomacoustics is not installed"
)
def test_simulated_rooms_are_functions_of_their_generator_and_decay() -> None:
    rooms = [simulate_response(np.random.default_rng(seed), 8000, (0.3, 0.4)) for seed in (1, 1, 2)]
    assert np.array_equal(rooms[0], rooms[1]) and not np.array_equal(rooms[0][:100], rooms[2][:100])
    assert rooms[0][0] == 1 and np.abs(rooms[0]).max() == 1
    early, late = np.square(rooms[0][:800]).sum(), np.square(rooms[0][2400:]).sum()
    assert late < 0.1 * early


@pytest.mark.parametrize("kind", ["codec", "bandwidth"])
def test_samples_depend_on_seed_and_index_alone(kind: str, corpus: Path) -> None:
    first, second = (open_train(DataConfig(str(corpus), crop_s=0.3), kind, 8000) for _ in range(2))  # type: ignore[arg-type]
    samples = {i: first[i] for i in (5, 0, 3)}  # type: ignore[index]
    for i, sample in samples.items():
        again = second[i]  # type: ignore[index]
        assert torch.equal(sample["clean"], again["clean"]) and torch.equal(
            sample["degraded"], again["degraded"]
        )
    assert any(not torch.equal(sample["clean"], sample["degraded"]) for sample in samples.values())


def test_degrade_writes_pairs_that_train_and_the_same_ones_again(
    corpus: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "pairs", tmp_path / "again"
    for target in (out, again):
        assert (
            degrade(
                Degrade(
                    "codec",
                    str(corpus),
                    str(target),
                    sample_rate=8000,
                    codec="gsm",
                    format="wav",
                    seed=3,
                )
            )
            == 6
        )
    files = sorted(file.relative_to(out) for file in out.rglob("*.wav"))
    assert len(files) == 12 and all(
        (out / file).read_bytes() == (again / file).read_bytes() for file in files
    )
    # all there already
    assert (
        degrade(
            Degrade("codec", str(corpus), str(out), sample_rate=8000, codec="gsm", format="wav")
        )
        == 0
    )
    data = open_train(DataConfig(str(out), crop_s=0.3), "codec", 8000)
    assert "degraded twins" in data.summary
    item = open_eval(DataConfig(str(out)), "test", "codec", 8000)[0]
    assert item["clean"].shape == item["degraded"].shape and not torch.equal(
        item["clean"], item["degraded"]
    )
    # a way of degrading that is named goes before the twins
    assert "gsm" in open_train(DataConfig(str(out), crop_s=0.3, codec="gsm"), "codec", 8000).summary


def test_degrade_says_what_is_wrong(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        degrade(Degrade("codec", "nowhere", str(tmp_path / "o")))
    with pytest.raises(UserError, match="is the folder that is read"):
        degrade(Degrade("codec", str(corpus), str(corpus)))
    with pytest.raises(UserError, match="noise"):
        degrade(Degrade("enhance", str(corpus), str(tmp_path / "o"), sample_rate=8000))
    with pytest.raises(UserError, match="^--codec-kbps 3: opus has"):
        degrade(
            Degrade(
                "codec", str(corpus), str(tmp_path / "o"), sample_rate=8000, codec_kbps=(3.0, 3.0)
            )
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match="empty: no such folder of impulse responses|no audio files"
    ):
        degrade(
            Degrade(
                "dereverb",
                str(corpus),
                str(tmp_path / "o"),
                sample_rate=8000,
                rirs=str(tmp_path / "empty"),
            )
        )


def test_phase_retrieval_is_degraded_to_zero_phase(corpus: Path, tmp_path: Path) -> None:
    file = next((corpus / "clean" / "test").rglob("*.wav"))
    degrade(Degrade("phase", str(file), str(tmp_path / "zero.wav"), sample_rate=8000))
    task = get_task(default_task("phase", 8000))
    clean, _ = soundfile.read(file, dtype="float32")
    made, _ = soundfile.read(tmp_path / "zero.wav", dtype="float32")
    assert np.allclose(
        made, task.degrade(torch.from_numpy(clean)[None])[0].numpy(), atol=1e-3
    ) and not np.allclose(made, clean, atol=1e-2)


class Known:
    """Training samples whose degraded speech is white noise of a known level away from the clean
    one.
    """

    def __init__(self, std: float, samples: int) -> None:
        self.std, self.samples = std, samples

    def share(self, step: int, global_batch: int, rank: int, world: int) -> range:
        return range(step * global_batch, (step + 1) * global_batch)

    def jobs(self, indices):  # noqa: ANN001, ANN201
        return (lambda index=index: self.sample(index) for index in indices)

    def sample(self, index: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(index)
        clean = torch.zeros(self.samples)
        return {
            "clean": clean,
            "degraded": self.std * torch.randn(self.samples, generator=generator),
            "index": index,
        }


def test_spread_is_a_third_of_the_error_and_the_profile_that_of_every_frequency() -> None:
    from dataclasses import replace

    preset = default_task("dereverb", 8000)
    linear = replace(preset, stft=replace(preset.stft, exponent=1.0), normalise="none")
    # 1/sqrt(N) scaling under a window of unit mean square power 1/2: a bin of white noise has
    # variance std^2 / 2
    expected = 0.1 * 0.5**0.5
    found = measure_spread(get_task(linear), Known(0.1, 32512), crops=32)  # type: ignore[arg-type]
    # dereverb: three times a third
    assert found.sigma_0 == pytest.approx(3 * expected / 3, rel=0.03)
    wide = replace(linear, name="bandwidth", prior_shape="profile", prior_profile=(1.0,) * 128)
    measured = measure_spread(get_task(wide), Known(0.1, 32512), crops=64)  # type: ignore[arg-type]
    assert measured.sigma_0 == 3 and measured.sigma_1 == 0.001
    inner = np.array(measured.prior_profile[4:])
    assert inner.mean() == pytest.approx(expected / 3, rel=0.2) and inner.std() < 0.1 * inner.mean()
    with pytest.raises(UserError, match="the same in all crops"):
        measure_spread(get_task(linear), Known(0.0, 4096), crops=16)  # type: ignore[arg-type]


def test_smoothing_keeps_constants_and_the_mean_of_an_impulse() -> None:
    assert torch.allclose(
        smoothed(torch.full((64,), 0.3, dtype=torch.float64)),
        torch.full((64,), 0.3, dtype=torch.float64),
    )
    impulse = torch.zeros(101, dtype=torch.float64)
    impulse[50] = 1
    made = smoothed(impulse)
    assert made.sum() == pytest.approx(1) and int(made.argmax()) == 50
    variance = (made * (torch.arange(101) - 50) ** 2).sum()
    assert variance == pytest.approx(9, rel=0.01)
