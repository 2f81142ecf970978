"""Metrics: exact answers first, then what they do with audio that has none."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mfdistill import metrics
from mfdistill.errors import UserError
from mfdistill.metrics import (
    METRICS,
    measure_rtf,
    named,
    paired_difference,
    score_utterances,
    summarise,
)
from mfdistill.metrics.summary import mean_ci95

RATE = 16000


def voice(
    seconds: float = 3.0, rate: int = RATE, pitch_hz: float = 120.0, seed: int = 0
) -> np.ndarray:
    """A buzzing vowel in syllables, with pauses: enough like speech for PESQ's and WebRTC's
    activity detectors.
    """
    t = np.arange(int(seconds * rate)) / rate
    pitch = pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = np.zeros_like(t)
    for k in range(1, 30):
        frequency = k * pitch_hz
        formants = sum(
            np.exp(-(((frequency - f) / w) ** 2)) for f, w in ((600, 150), (1200, 200), (2500, 300))
        )
        wave += (formants + 0.02) * np.sin(k * phase)
    wave *= np.clip(np.sin(2 * np.pi * 2.0 * t), 0, None) ** 0.5
    wave += 1e-3 * np.random.default_rng(seed).standard_normal(len(t))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def noise(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def one(
    name: str, estimate: np.ndarray, reference: np.ndarray, rate: int = RATE
) -> dict[str, float]:
    return METRICS[name].fn(estimate, reference, rate)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 7.5, 60.0])
@pytest.mark.parametrize("gain", [1.0, -0.01, 37.0])
def test_sisdr_of_a_known_mixture(snr_db: float, gain: float) -> None:
    s, e = noise(8000, 1), noise(8000, 2)
    # orthogonal to the reference, so that the ratio is exactly what is set here
    e -= (e @ s) / (s @ s) * s
    e *= np.linalg.norm(s) / np.linalg.norm(e) * 10 ** (-snr_db / 20)
    assert one("sisdr", gain * (s + e), s)["sisdr"] == pytest.approx(snr_db, abs=1e-6)


def test_sisdr_limits() -> None:
    s = noise(1000)
    assert one("sisdr", s, s)["sisdr"] == 100.0
    assert one("sisdr", np.eye(1, 1000, 1)[0], np.eye(1, 1000, 0)[0])["sisdr"] == -100.0


@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_lsd_of_a_gain_is_its_size(gain_db: float) -> None:
    s = noise(RATE)
    assert one("lsd", s * 10 ** (gain_db / 20), s)["lsd"] == pytest.approx(abs(gain_db), abs=1e-9)


def test_lsd_of_silence_is_the_range() -> None:
    impulse = np.eye(1, 512, 256)[0]  # flat spectrum: every bin stands 80 dB above the floor
    assert one("lsd", np.zeros(512), impulse)["lsd"] == pytest.approx(80.0, abs=1e-6)


@pytest.mark.parametrize(
    "rate, mode, best", [(16000, "wb", 4.64), (8000, "nb", 4.55), (24000, "wb", 4.64)]
)
def test_pesq_of_identity(rate: int, mode: str, best: float) -> None:
    s = voice(rate=rate)
    assert metrics.pesq_mode(rate) == mode
    assert one("pesq", s, s, rate)["pesq"] == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_estoi_of_identity(rate: int) -> None:
    s = voice(rate=rate)
    assert one("estoi", s, s, rate)["estoi"] == pytest.approx(1.0, abs=1e-9)


def test_estoi_is_repeatable_and_leaves_the_generator_alone() -> None:
    s = voice()
    # silent bands are where pystoi's dither shows
    gated = np.where(np.arange(len(s)) % 8000 < 4000, s, 0)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = one("estoi", gated, s)
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(6)
    assert one("estoi", gated, s) == first


def test_spksim_of_identity(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    s = voice()
    state = torch.get_rng_state()
    assert one("spksim", s, s)["spksim"] == pytest.approx(1.0, abs=1e-6)
    # a peak above 1 must not wrap around in the voice detector's 16 bits
    assert one("spksim", 4 * s, s)["spksim"] > 0.8
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == ""


def test_spksim_tells_speakers_apart(shared: Path) -> None:
    import soundfile

    folders = [
        sorted(folder.glob("*.flac")) for folder in sorted((shared / "data/clean/test").iterdir())
    ]
    several = [files for files in folders if len(files) > 1]
    a, b, c = (
        soundfile.read(file, dtype="float32")[0]
        for file in (several[0][0], several[0][1], several[1][0])
    )
    n = min(len(a), len(b), len(c))
    assert one("spksim", a[:n], b[:n])["spksim"] > one("spksim", a[:n], c[:n])["spksim"]


def test_dnsmos_prefers_clean(shared: Path) -> None:
    import soundfile

    pair = [
        soundfile.read(shared / f"data/pairs/vbdmd_train/{kind}/p287_003.flac", dtype="float32")[0]
        for kind in ("clean", "noisy")
    ]
    clean, noisy = (one("dnsmos", wave, pair[0]) for wave in pair)
    assert all(clean[column] > noisy[column] for column in METRICS["dnsmos"].names)
    assert clean["dnsmos_ovrl"] == pytest.approx(3.0, abs=0.7)


def test_dnsmos_runs_at_any_level_and_rate() -> None:
    s = voice()
    loud = one("dnsmos", 5 * s, s)
    full_scale = one("dnsmos", s / np.abs(s).max(), s)
    assert loud["dnsmos_ovrl"] == pytest.approx(full_scale["dnsmos_ovrl"], abs=1e-3)
    assert set(one("dnsmos", voice(rate=8000), s, 8000)) == {
        "dnsmos_sig",
        "dnsmos_bak",
        "dnsmos_ovrl",
    }
    noisy = s + 0.1 * noise(len(s)).astype(np.float32)
    assert one("dnsmos", noisy, s)["dnsmos_bak"] < full_scale["dnsmos_bak"]


def _value(metric: metrics.Metric, estimate: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Of a pair; of a set metric, of a set of two recordings."""
    if metric.over is None:
        return metric.fn(estimate, reference, RATE)
    half = len(reference) // 2
    parts = (slice(None, half), slice(half, None))
    return metric.over([metric.fn(estimate[part], reference[part], RATE) for part in parts])


def test_directions() -> None:
    s = voice()
    worse = s + 0.01 * noise(len(s)).astype(np.float32)
    # a MOS or the words of a synthetic vowel mean little
    names = set(METRICS) - {"dnsmos", "plcmos", "wer", "wer_whisper"}
    for metric in (METRICS[name] for name in names):
        for column in metric.columns:
            better, bad = (_value(metric, wave, s)[column.name] for wave in (s, worse))
            assert column.direction * (better - bad) > 0, column.name
    assert (
        metrics.direction("lsd"),
        metrics.direction("dnsmos_sig"),
        metrics.direction("nfe"),
    ) == (-1, 1, 0)


def test_lengths_are_trimmed_or_refused() -> None:
    s = voice()
    short = score_utterances([("a", s[:-700], s), ("b", s, s[:-700])], ["sisdr"], RATE)
    assert [row["sisdr"] for row in short] == [100.0, 100.0]
    with pytest.raises(
        UserError,
        match="lengthy: estimate lasts 2.938 s and reference 3.000 s, more than 0.05 s apart",
    ):
        score_utterances([("lengthy", s[:-1000], s)], ["sisdr"], RATE)
    with pytest.raises(UserError, match="mono"):
        score_utterances([("stereo", np.zeros((2, 100)), np.zeros((2, 100)))], ["sisdr"], RATE)
    with pytest.raises(UserError, match="no samples"):
        score_utterances([("empty", s[:0], s[:0])], ["sisdr"], RATE)


ALL = ["pesq", "estoi", "sisdr", "lsd", "spksim", "dnsmos"]


@pytest.mark.parametrize(
    "estimate, reference, undefined",
    [
        (np.zeros(RATE), voice(1.0), {"pesq", "sisdr", "spksim", "dnsmos"}),
        (voice(1.0), np.zeros(RATE), {"pesq", "estoi", "sisdr", "lsd", "spksim"}),
        (np.full(RATE, np.nan), voice(1.0), set(ALL)),
        (voice(1.0)[:1], voice(1.0)[1000:1001], {"pesq", "estoi", "spksim", "dnsmos"}),
        (voice(0.2), voice(0.2), {"pesq", "estoi"}),
    ],
    ids=["silent estimate", "silent reference", "nan", "one sample", "short"],
)
def test_audio_without_an_answer_is_nan_and_counted(
    estimate, reference, undefined, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (row,) = score_utterances([("it", estimate, reference)], ALL, RATE)
    missing = {name for name in ALL if math.isnan(row[METRICS[name].primary])}
    assert missing == undefined
    assert all(f"{name}: " in row["failed"] for name in undefined)
    assert "1 of 1 utterances lack a metric" in caplog.text


def test_pesq_finds_no_speech() -> None:
    click = np.where(np.abs(np.arange(RATE) - 8000) < 100, noise(RATE), 0)
    (row,) = score_utterances([("click", noise(RATE), click)], ["pesq"], RATE)
    assert math.isnan(row["pesq"]) and row["failed"].startswith("pesq: No utterances detected")


def test_pool_gives_the_same_rows() -> None:
    items = [
        (f"{k}", voice(1.0, seed=k) + 0.01 * noise(RATE, k), voice(1.0, seed=k)) for k in range(3)
    ]
    items.append(("silent", np.zeros(RATE), voice(1.0)))
    names = ["sisdr", "pesq", "estoi"]
    assert repr(score_utterances(items, names, RATE, workers=2)) == repr(
        score_utterances(items, names, RATE)
    )


def test_summary() -> None:
    rows = [
        {"name": str(k), "a": value, "b": math.nan, "failed": ""}
        for k, value in enumerate([1.0, 2.0, 3.0, math.nan])
    ]
    summary = summarise(rows)
    assert summary["n"] == 4 and summary["a"] == 2.0 and summary["a_n"] == 3
    # t of 2 degrees of freedom, deviation 1
    assert summary["a_ci95"] == pytest.approx(4.302652729911275 * 1 / math.sqrt(3), abs=1e-9)
    assert math.isnan(summary["b"]) and summary["b_n"] == 0 and "failed" not in summary
    assert mean_ci95([5.0])[0] == 5.0 and math.isnan(mean_ci95([5.0])[1])
    assert summarise([]) == {"n": 0}


def test_paired_difference() -> None:
    a = [{"name": str(k), "pesq": k + 0.5} for k in range(5)]
    b = [{"name": str(k), "pesq": float(k)} for k in reversed(range(6))]
    assert paired_difference(a, b, "pesq") == (0.5, 0.0, 5)
    with pytest.raises(UserError, match="no utterance is in both"):
        paired_difference(a, b, "estoi")


def test_unknown_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'estoi'"):
        named(["stoi"])
    with pytest.raises(UserError, match="none given"):
        named([])
    assert [metric.name for metric in named(["lsd", "sisdr", "lsd"])] == ["lsd", "sisdr"]
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(
        UserError, match="metric pesq: the package 'pesq' is not installed; pip install 'pesq'"
    ):
        named(["pesq"])
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(UserError, match="pip install 'pystoi'"):
        one("estoi", voice(), voice())


def test_rtf() -> None:
    import time

    calls = []

    def work() -> None:
        # the warm-up is slow and must not count
        calls.append(time.sleep(0.3 if not calls else 0.01))

    assert 0.005 <= measure_rtf(work, seconds=2.0, repeats=3) < 0.1
    assert len(calls) == 4
    with pytest.raises(UserError, match="real-time factor"):
        measure_rtf(work, 0.0)


def test_import_is_light() -> None:
    heavy = (
        "torch",
        "scipy",
        "librosa",
        "pesq",
        "pystoi",
        "resemblyzer",
        "speechmos",
        "onnxruntime",
        "soxr",
    )
    code = f"import sys, mfdistill.metrics; print([m for m in {heavy!r} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
