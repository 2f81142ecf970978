"""The embedded corpus: deterministic, made once, disjoint voices and sentences."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mfdistill.data import DataConfig, embedded, noises, open_eval, open_train, sentences
from mfdistill.errors import UserError


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MFDISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "_PER_VOICE", {"train": 1, "valid": 2, "test": 2})
    monkeypatch.setattr(embedded, "NOISE_S", 0.5)
    return tmp_path


def test_plan() -> None:
    voices = {
        split: {path.split("/")[1] for path in embedded._jobs() if path.startswith(split)}
        for split in ("train", "valid", "test")
    }
    assert len(voices["train"]) >= 12 and len(set.union(*voices.values())) == sum(
        map(len, voices.values())
    )
    texts = [*sentences.TRAIN, *sentences.VALID, *sentences.TEST]
    assert len(texts) == len(set(texts)) == 60
    assert {job["text"] for job in embedded._jobs().values()} == set(texts)


def test_made_once_the_same_and_by_two_at_a_time(small: Path) -> None:
    pytest.importorskip("espeakng_loader")
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: embedded.embedded_corpus(), range(2))
    assert one == two and [path.name for path in small.iterdir()] == [one.name]
    files = {
        path.relative_to(one): path.read_bytes() for path in one.rglob("*.*") if path.is_file()
    }
    other = embedded.embedded_corpus(small / "again")
    assert {
        path.relative_to(other): path.read_bytes() for path in other.rglob("*.*") if path.is_file()
    } == files

    stamp = (one / "transcripts.tsv").stat().st_mtime_ns
    data = open_train(DataConfig(), True, 16000)
    assert (one / "transcripts.tsv").stat().st_mtime_ns == stamp
    assert (
        "16 recordings" in data.summary
        and "19 noises" in data.summary
        and data[0]["degraded"].shape == (32000,)
    )
    test = open_eval(DataConfig(), "test", True, 16000)
    assert len(test) == 8 and all(item["text"] in sentences.TEST for item in test)
    for item in test:
        assert (
            1.0 < item["clean"].numel() / 16000 < 8
            and 0.005 < float(item["clean"].square().mean().sqrt()) < 0.2
        )


def test_clear_error_without_the_synthesiser(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'espeakng-loader'"):
        embedded.embedded_corpus()
    assert not list(small.iterdir())


def test_a_voice_that_does_not_exist(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setitem(embedded._VOICES, "valid", (("xx-none", 170, 50, 50),))
    with pytest.raises(UserError, match="has no voice xx-none"):
        embedded.embedded_corpus()
    assert not list(small.iterdir())


def test_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="MFDISTILL_CACHE"):
        embedded.embedded_corpus(tmp_path / "file" / "below")


def test_noise_spectra() -> None:
    rng, size = np.random.default_rng(0), 1 << 15
    for slope in (0.0, 1.0, 2.0):
        power = np.abs(np.fft.rfft(noises.coloured(rng, size, slope))) ** 2
        # 4 octaves apart
        low, high = power[size // 64 : size // 32].mean(), power[size // 4 : size // 2].mean()
        assert 10 * np.log10(low / high) == pytest.approx(12.04 * slope, abs=1.0)
    inside = np.abs(np.fft.rfft(noises.band(rng, size, 0.1, 0.2)))
    assert inside[: size // 10 - 1].max() < 1e-2 * inside.max()
    for wave in (
        noises.hum(rng, size, 16000, 50.0),
        noises.clicks(rng, size, 16000, 4.0),
        noises.modulated(rng, size, 16000, 2.0, 1.0),
    ):
        assert (
            wave.shape == (size,)
            and wave.dtype == np.float32
            and np.sqrt(np.mean(wave**2)) == pytest.approx(1.0, rel=1e-3)
        )


def test_the_synthesiser_never_loads_here(small: Path) -> None:
    pytest.importorskip("espeakng_loader")
    sys.modules.pop("espeakng_loader", None)
    folder = embedded.embedded_corpus()
    assert (
        "espeakng_loader" not in sys.modules
        and soundfile.info(str(next(folder.rglob("*.flac")))).samplerate == 22050
    )
