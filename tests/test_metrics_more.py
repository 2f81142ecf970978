"""Metrics of voice, envelope, sets and words, and the processes that they run in: exact answers
first.
"""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mfdistill.errors import UserError
from mfdistill.metrics import (
    METRICS,
    Column,
    Metric,
    Undefined,
    differences,
    plain,
    score_utterances,
    scoring_pool,
    summarise,
)
from mfdistill.metrics.asr import words
from mfdistill.metrics.cepstra import BANDS, DECIBELS, ORDER, cepstra
from mfdistill.metrics.frechet import dnsmos_frames, frechet
from mfdistill.metrics.score import EVIDENCE
from mfdistill.metrics.workers import Died, Workers

RATE = 16000


def tone(pitch_hz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """Ten harmonics, falling by 6 dB per octave."""
    t = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * k * pitch_hz * t + k) / k for k in range(1, 11))
    return (0.1 * np.asarray(wave)).astype(np.float32)


def noise(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def one(name: str, estimate: np.ndarray, reference: np.ndarray, rate: int = RATE):
    return METRICS[name].fn(estimate, reference, rate)


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_pitch_error_of_a_known_shift(rate: int) -> None:
    # 60 Hz times powers of the quarter semitone: on pYIN's grid
    low, high = (60 * 2 ** (steps / 48) for steps in (48, 52))  # 100 cents apart
    found = one("voicing", tone(high, rate=rate), tone(low, rate=rate), rate)
    assert found["pitch_error"] == pytest.approx(100.0, abs=0.5)
    assert found["vuv_f1"] == 1.0
    same = one("voicing", tone(low, rate=rate), tone(low, rate=rate), rate)
    assert same == {"pitch_error": 0.0, "vuv_f1": 1.0, "periodicity": 0.0}


def test_voicing_of_a_voice_that_stops() -> None:
    s = tone(120.0, 2.0)
    half = np.where(np.arange(len(s)) < RATE, s, 0).astype(np.float32)
    found = one("voicing", half, s)
    # half of the reference's frames are found and none is invented: 2 · 0.5 / 1.5
    assert found["vuv_f1"] == pytest.approx(2 / 3, abs=0.02)
    assert found["pitch_error"] == pytest.approx(0.0, abs=1e-6)
    whispered = one("voicing", 0 * s, s)
    assert whispered["vuv_f1"] == 0.0 and math.isnan(whispered["pitch_error"])
    assert whispered["periodicity"] > found["periodicity"] > 0.5
    with pytest.raises(Undefined, match="no voiced frame"):
        one("voicing", s, 0.1 * noise(len(s)))


def test_cepstra_are_the_cosine_series() -> None:
    places = (np.arange(BANDS) + 0.5) / BANDS
    for order in (1, 5, ORDER):
        found = cepstra(0.7 * np.cos(np.pi * order * places)[None] + 3.0)[0]
        assert found == pytest.approx(0.7 * (np.arange(1, ORDER + 1) == order), abs=1e-12)
    # a ripple of 2 dB over the Mel axis is a distortion of its root mean square
    ripple = 2.0 / (20 / np.log(10)) * np.cos(np.pi * 3 * places)[None]
    assert DECIBELS * np.linalg.norm(cepstra(ripple)) == pytest.approx(2 / math.sqrt(2), abs=1e-12)


def test_mcd() -> None:
    s = noise(RATE) * np.hanning(RATE).astype(np.float32)
    loud = noise(RATE)
    same = {"mcd": pytest.approx(0.0, abs=1e-6), "mcd_dtw": pytest.approx(0.0, abs=1e-6)}
    assert one("mcd", s, s) == same
    assert one("mcd", 0.5 * loud, loud) == same  # a gain is no envelope
    # a delay by three frames is all that warping has to undo
    words = np.concatenate([tone(100 + 40 * k, 0.1) * (1 + k % 3) for k in range(10)])
    late = np.concatenate([np.zeros(384, np.float32), words[:-384]])
    delayed = one("mcd", late, words)
    assert delayed["mcd_dtw"] < 0.5 * delayed["mcd"]
    with pytest.raises(Undefined, match="silent"):
        one("mcd", s, 0 * s)


def test_frechet_distance_of_known_sets() -> None:
    rng = np.random.default_rng(0)
    for rows, size in ((500, 8), (5, 8)):  # more and fewer rows than dimensions
        a = rng.standard_normal((rows, size)) @ rng.standard_normal((size, size))
        shift = rng.standard_normal(size)
        spread = np.trace(np.cov(a.T))
        assert frechet(a, a) == pytest.approx(0.0, abs=1e-9 * spread)
        assert frechet(a + shift, a[::-1]) == pytest.approx(shift @ shift)
        centred = a - a.mean(0)
        assert frechet(3 * centred, centred) == pytest.approx(4 * spread)
    # independent coordinates: the distance of the standard deviations
    b = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    assert frechet(b * [2.0, 5.0], b) == pytest.approx(1 + 16)
    assert math.isnan(frechet(b[:1], b))


def test_frechet_distance_against_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((60, 6)) @ rng.standard_normal((6, 6)) for _ in range(2))
    x, y = np.cov(a.T), np.cov(b.T)
    direct = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(x + y - 2 * sqrtm(x @ y).real)
    assert frechet(a, b) == pytest.approx(direct, rel=1e-8)


def test_frames_are_those_of_dnsmos() -> None:
    from speechmos import dnsmos

    window = 0.1 * noise(144160)
    s = tone(120.0, 2.0)
    assert dnsmos_frames(window, RATE).shape == (112, 64)
    assert dnsmos_frames(s, RATE).shape == (25, 64)
    # the frames' maximum, through the package's last layers, is the package's score
    from mfdistill.metrics.frechet import LAYER, _network

    scores, maps = _network().run(["Identity:0", LAYER], {"input_1": window[None]})
    session = dnsmos.DNSMOS(*(_model(name) for name in ("sig_bak_ovr", "model_v8"))).onnx_sess
    assert scores == pytest.approx(session.run(None, {"input_1": window[None]})[0], abs=1e-5)
    assert dnsmos_frames(window, RATE) == pytest.approx(maps[0].max(-1).T, abs=1e-6)


def _model(name: str) -> str:
    import speechmos

    return str(Path(str(speechmos.__file__)).parent / "dnsmos_models" / f"{name}.onnx")


TOY = Metric(
    "toy",
    (Column("toy", "Toy", -1),),
    lambda estimate, reference, rate: (estimate[None], reference[None]),
    over=lambda pairs: {
        "toy": frechet(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    },
)


def test_set_metrics_in_rows_summaries_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "toy", TOY)
    rng = np.random.default_rng(0)
    clean = {f"u{k}": rng.standard_normal(50) for k in range(12)}
    shift = np.full(50, 0.1)
    near, far = (
        score_utterances(
            [(name, wave + gain * shift, wave) for name, wave in clean.items()],
            ["sisdr", "toy"],
            RATE,
        )
        for gain in (1.0, 2.0)
    )
    assert "toy" not in near[0] and set(plain(near[0])) == {"name", "sisdr", "failed"}
    summary = summarise(near)
    # the same shift of all: its squared length, whoever is drawn
    assert summary["toy"] == pytest.approx(0.5) and summary["toy_n"] == 12
    assert summary["toy_ci95"] == pytest.approx(0.0, abs=1e-9)
    change = differences(far, near[::-1])
    assert change["toy"] == pytest.approx(4 * 0.5 - 0.5)
    assert change["toy_ci95"] == pytest.approx(0.0, abs=1e-9)
    by_name = {row["name"]: row["sisdr"] for row in near}
    each = [row["sisdr"] - by_name[row["name"]] for row in far]
    assert change["sisdr"] == pytest.approx(np.mean(each)) and change["sisdr_n"] == 12
    # one that cannot be scored is left out of both
    broken = [dict(row) for row in near]
    broken[0][EVIDENCE] = {"toy": None}
    assert summarise(broken)["toy_n"] == 11 and differences(far, broken)["toy_n"] == 11
    assert math.isnan(summarise([broken[0]])["toy"])


def test_bootstrap_interval_of_a_set_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Metric(
        "toy",
        (Column("toy", "Toy", +1),),
        lambda estimate, reference, rate: float(estimate[0]),
        over=lambda values: {"toy": float(np.mean(values))},
    )
    monkeypatch.setitem(METRICS, "toy", mean)
    values = np.random.default_rng(3).standard_normal(100)
    rows = score_utterances([(str(i), np.array([v]), np.ones(1)) for i, v in enumerate(values)], ["toy"], RATE)  # fmt: skip
    summary = summarise(rows)
    assert summary["toy"] == pytest.approx(values.mean())
    # a mean's interval is known
    assert summary["toy_ci95"] == pytest.approx(1.96 * values.std() / 10, rel=0.15)
    # paired with itself plus a constant, the interval vanishes
    more = score_utterances([(str(i), np.array([v + 1]), np.ones(1)) for i, v in enumerate(values)], ["toy"], RATE)  # fmt: skip
    change = differences(more, rows)
    assert change["toy"] == pytest.approx(1.0) and change["toy_ci95"] < 1e-9


def test_a_search_refuses_set_metrics() -> None:
    from mfdistill.search.score import resolve_metric

    with pytest.raises(UserError, match="fd_frames: is of a whole set"):
        resolve_metric("fd_frames")
    assert resolve_metric("vuv_f1") == ("voicing", "vuv_f1", 1)
    assert resolve_metric("voicing") == ("voicing", "periodicity", -1)


def test_plcmos_is_repeatable_and_prefers_whole_speech(shared: Path) -> None:
    import soundfile

    s, _ = soundfile.read(shared / "data/pairs/vbdmd_train/clean/p287_003.flac", dtype="float32")
    s = s[: 4 * RATE]
    gaps = np.where(np.arange(len(s)) % 3200 < 1600, s, 0).astype(np.float32)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    clean = one("plcmos", s, s)["plcmos"]
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    np.random.seed(9)
    assert one("plcmos", s, s)["plcmos"] == clean > one("plcmos", gaps, s)["plcmos"] + 0.5


def test_word_error_rate(shared: Path) -> None:
    import soundfile

    pytest.importorskip("pocketsphinx")
    s, _ = soundfile.read(shared / "data/clean/test/vctk_p225/p225_003.flac", dtype="float32")
    assert one("wer", s, s)["wer"] == 0.0
    masked = s + 0.3 * noise(len(s))
    assert one("wer", masked, s)["wer"] > 0.3
    with pytest.raises(Undefined, match="no words"):
        one("wer", s, 1e-4 * noise(len(s)))
    assert words("It's 3 o'clock, -- said HE.") == "it's 3 o'clock said he"


def crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_: object) -> None:
    time.sleep(600)


def work(*_: object) -> None:
    while True:
        pass


def odd(value: int) -> int:
    os.write(1, b"native code may print")
    if value % 2 == 0:
        raise Undefined(f"{value} is even")
    return value


def test_workers_answer_fail_die_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mfdistill.metrics.workers.PATIENCE", 3.0)
    workers = Workers(1)
    try:
        assert workers.submit(60, odd, 3).result() == 3
        with pytest.raises(Undefined, match="2 is even"):
            workers.submit(60, odd, 2).result()
        dead, slow, stuck, fine = (
            workers.submit(*call) for call in ((60, crash), (2, work), (1, hang), (60, odd, 5))
        )
        with pytest.raises(Died, match="ended by SIGSEGV"):
            dead.result()
        with pytest.raises(Died, match="longer than 2 s"):
            slow.result()
        with pytest.raises(Died, match="longer than 1 s"):
            stuck.result()
        assert fine.result() == 5
    finally:
        workers.close()


def crash_when_loud(estimate: np.ndarray, reference: np.ndarray, rate: int) -> dict[str, float]:
    if np.abs(estimate).max() > 0.5:
        crash()
    return {"fragile": float(len(estimate))}


def test_a_process_that_died_idle_costs_nothing() -> None:
    pool = Workers(1)
    first = pool.submit(60.0, os.getpid).result()
    process = psutil.Process(first)
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    second = pool.submit(60.0, os.getpid).result()
    pool.abandon([])  # Ctrl-C after everything was answered
    third = pool.submit(60.0, os.getpid).result()
    pool.close()
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_a_dead_worker_costs_one_value(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile = Metric(
        "fragile", (Column("fragile", "F", 1),), crash_when_loud, worker=True, piece_s=1.0
    )
    monkeypatch.setitem(METRICS, "fragile", fragile)
    waves = [np.full(400, level) for level in (0.1, 0.9, 0.2, 0.9, 0.3)]
    with scoring_pool(count) as pool:
        rows = score_utterances(
            [(str(i), wave, wave) for i, wave in enumerate(waves)],
            ["sisdr", "fragile"],
            RATE,
            pool=pool,
        )
    assert [row["sisdr"] for row in rows] == [100.0] * 5
    assert [math.isnan(row["fragile"]) for row in rows] == [False, True, False, True, False]
    assert (
        rows[1]["failed"] == "fragile: its process was ended by SIGSEGV" and not rows[2]["failed"]
    )


def hang_when_loud(estimate: np.ndarray, reference: np.ndarray, rate: int) -> dict[str, float]:
    if np.abs(estimate).max() > 0.5:
        hang()
    return {"slow": 1.0}


def test_an_interruption_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Metric("slow", (Column("slow", "S", 1),), hang_when_loud, worker=True)
    monkeypatch.setitem(METRICS, "slow", slow)
    quiet, loud = np.full(400, 0.1), np.full(400, 0.9)

    def utterances():
        for k in range(5):
            yield f"loud{k}", loud, loud
        raise KeyboardInterrupt

    workers, futures, submit = Workers(1), [], Workers.submit

    def watched(*call):
        futures.append(submit(*call))
        return futures[-1]

    monkeypatch.setattr(Workers, "submit", watched)
    try:
        with pytest.raises(KeyboardInterrupt):
            score_utterances(utterances(), ["slow"], RATE, pool=workers)
        # each would take ten minutes, or two until its limit
        assert len(futures) == 5
        for future in futures:
            assert future.cancelled() or "longer" not in str(future.exception())
        (row,) = score_utterances([("it", quiet, quiet)], ["slow"], RATE, pool=workers)
        assert row["slow"] == 1.0
    finally:
        workers.close()


def test_long_recordings_in_equal_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def level(estimate: np.ndarray, reference: np.ndarray, rate: int) -> dict[str, float]:
        lengths.append(len(estimate))
        if not estimate.any():
            raise Undefined("silent")
        return {"level": float(np.mean(estimate))}

    metric = Metric("level", (Column("level", "L", 1),), level, piece_s=1.0)
    monkeypatch.setitem(METRICS, "level", metric)
    wave = np.repeat([0.0, 1.0, 3.0], 100)
    (row,) = score_utterances([("it", wave, wave)], ["level"], 100)
    assert lengths == [100, 100, 100] and row["level"] == 2.0  # the silent piece has no value
    (row,) = score_utterances([("it", 0 * wave, wave)], ["level"], 100)
    assert math.isnan(row["level"]) and row["failed"] == "level: silent"
    lengths.clear()
    score_utterances([("it", wave[:100], wave[:100])], ["level"], 100)
    assert lengths == [100]


def test_pesq_of_minutes(shared: Path) -> None:
    import soundfile

    files = sorted((shared / "data/clean/test").rglob("*.flac"))
    s = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files])[: 240 * RATE]
    # as a whole, this ends the package's process by SIGSEGV
    (row,) = score_utterances([("noisy", s + 0.01 * noise(len(s)), s)], ["pesq"], RATE)
    assert not row["failed"] and row["pesq"] == pytest.approx(1.23, abs=0.1)


def test_every_metric_is_a_whole_row_and_documented() -> None:
    page = (Path(__file__).parents[1] / "docs/metrics.md").read_text(encoding="utf-8")
    for name, metric in METRICS.items():
        assert metric.name == name and metric.columns and f"| `{name}` |" in page
        for column in metric.columns:
            assert column.direction in (1, -1) and column.label and f"`{column.name}`" in page
            assert (column.resolution is None) == (metric.over is not None)
    names = [column.name for metric in METRICS.values() for column in metric.columns]
    assert len(names) == len(set(names))
