"""Bad recordings: found before a run, stopped at or left out in it; what was measured stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.audio.fingerprint import alike, fingerprint
from mfdistill.cli import main
from mfdistill.commands.training import begun
from mfdistill.data import DataConfig, open_train
from mfdistill.data.check import alignment, check_corpus, clipped_share
from mfdistill.distill.settings import TrainConfig, identity
from mfdistill.distill.state import save_state
from mfdistill.errors import UserError

RATE = 8000


def voice(seed: int, seconds: float = 4.0) -> np.ndarray:
    """Something with formants that move, and pauses."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 + 40 * np.interp(t, np.linspace(0, seconds, 12), rng.standard_normal(12))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    levels = np.abs(rng.standard_normal((12, 40)))
    wave = sum(
        np.interp(t, np.linspace(0, seconds, 40), levels[k]) * np.sin((k + 1) * phase)
        for k in range(12)
    )
    return (0.02 * wave + 1e-4 * rng.standard_normal(len(t))).astype(np.float32)


def put(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)


def corpus(root: Path, count: int = 12, pairs: bool = True) -> None:
    rng = np.random.default_rng(9)
    for split in ("train", "valid", "test"):
        for k in range(count if split == "train" else 2):
            wave = voice({"train": 0, "valid": 500, "test": 900}[split] + 100 + k)
            name = f"{split}{k:02d}.wav"
            if pairs:
                put(root / split / "clean" / name, wave)
                noise = 0.01 * rng.standard_normal(len(wave)).astype("f4")
                put(root / split / "noisy" / name, wave + noise)
            else:
                put(root / split / name, wave)


def test_a_sound_corpus_has_no_findings(tmp_path: Path) -> None:
    corpus(tmp_path)
    report = check_corpus(DataConfig(str(tmp_path)), RATE)
    assert report.findings == [] and dict(report.files) == {"train": 12, "valid": 2, "test": 2}
    assert report.seconds["train"] == pytest.approx(48)


def test_everything_that_can_be_wrong_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus(tmp_path)
    clean, noisy = tmp_path / "train" / "clean", tmp_path / "train" / "noisy"
    (noisy / "train00.wav").write_bytes((noisy / "train00.wav").read_bytes()[:2000])
    wave = voice(1)
    wave[500] = np.nan
    put(clean / "train01.wav", wave)
    put(clean / "train02.wav", np.zeros(32000))
    loud = 40 * voice(3)
    put(clean / "train03.wav", np.clip(loud, -1, 1), subtype="PCM_16")
    put(noisy / "train04.wav", np.zeros(31999) + 0.1)
    put(noisy / "train05.wav", voice(5), 16000)
    late = soundfile.read(noisy / "train06.wav")[0]
    put(noisy / "train06.wav", np.roll(late, 40))
    put(noisy / "train07.wav", voice(777))
    put(clean / "train08.wav", 0.4 * soundfile.read(clean / "train09.wav")[0], subtype="PCM_16")
    put(tmp_path / "test" / "clean" / "test00.wav", soundfile.read(clean / "train10.wav")[0])
    put(tmp_path / "test" / "clean" / "test01.wav", voice(50), 4000)
    file = tmp_path / "report.json"
    assert (
        main(["data", "check", str(tmp_path), "--sample-rate", "8000", "--report", str(file)]) == 2
    )
    told = capfd.readouterr()
    assert "would stop a training run" in told.err and "Traceback" not in told.err
    found = {(row["kind"], row["name"]) for row in json.loads(file.read_text())["findings"]}
    assert {
        ("unreadable", "train00"), ("not finite", "train01"), ("silent", "train02"), ("clipped", "train03"),
        ("pair lengths", "train04"), ("pair rates", "train05"), ("misaligned", "train06"), ("not a pair", "train07"),
        ("duplicate", "train10"), ("rate", "test01"),
    } <= found  # fmt: skip
    rows = json.loads(file.read_text())["findings"]
    near = [row for row in rows if row["kind"] == "near duplicate"]
    assert [(row["name"], row["detail"]) for row in near] == [
        ("train09", "of train: train08, in the same split")
    ]
    assert [row["detail"] for row in rows if row["kind"] == "duplicate"] == [
        "of test: test00, in another split"
    ]
    assert "40 samples" in next(row["detail"] for row in rows if row["kind"] == "misaligned")


def test_parts_of_the_check_on_exact_answers() -> None:
    wave = voice(1)
    assert alignment(wave, wave, RATE)[0] == 0 and alignment(wave, np.roll(wave, -7), RATE)[0] == -7
    assert clipped_share(wave) == 0
    square = np.concatenate([np.linspace(0, 0.5, 95), np.ones(5)])
    assert clipped_share(square) == pytest.approx(0.05)
    from mfdistill.audio.io import resample

    prints = {
        "a": fingerprint(wave, RATE), "cut": fingerprint(0.3 * wave[6000:], RATE),
        "fast": fingerprint(resample(wave, RATE, 24000), 24000),
"rounded": fingerprint(np.round(wave * 32768) / 32768, RATE),
        "other": fingerprint(voice(2), RATE), "third": fingerprint(voice(3), RATE), "short": fingerprint(wave[:100], RATE),
    }  # fmt: skip
    found = alike(prints)
    assert ("a", "cut") in found and ("a", "fast") in found and ("a", "rounded") in found
    assert not {"other", "third", "short"} & {name for pair in found for name in pair}


def break_wave(file: Path) -> None:
    """Found only where it is decoded: the header is whole."""
    wave, rate = soundfile.read(file, dtype="float32")
    wave[len(wave) // 2] = np.inf
    put(file, wave, rate)


def test_a_bad_file_is_left_out_and_the_draws_of_the_others_do_not_change(tmp_path: Path) -> None:
    corpus(tmp_path)
    config = DataConfig(str(tmp_path), crop_s=0.5, on_bad_file="skip", bad_share=0.2)
    before = open_train(config, True, RATE)
    drawn = [before[i] for i in range(200)]
    assert before.bad.summary() is None
    break_wave(tmp_path / "train" / "noisy" / "train03.wav")
    (tmp_path / "train" / "clean" / "train05.wav").write_bytes(b"RIFF")
    after = open_train(config, True, RATE)
    changed = 0
    for i in range(200):
        bad = before.recording(i) in (3, 5)
        changed += bad
        same = torch.equal(after[i]["degraded"], drawn[i]["degraded"])
        assert bad or not len(after) == len(before) or same
    assert changed and set(after.bad.found) == {3, 5}
    assert "2 of 12 recordings were left out" in str(after.bad.summary())
    # the same, whatever was read before it
    again = open_train(config, True, RATE)
    for i in (150, 3, 77):
        assert torch.equal(again[i]["degraded"], after[i]["degraded"])


def test_too_many_bad_files_stop_the_run_and_stop_is_the_default(tmp_path: Path) -> None:
    corpus(tmp_path)
    for k in range(3):
        break_wave(tmp_path / "train" / "clean" / f"train{k:02d}.wav")
    with pytest.raises(UserError, match=r"more than --bad-share 0.1"):
        train = open_train(DataConfig(str(tmp_path), on_bad_file="skip", bad_share=0.1), True, RATE)
        for i in range(100):
            train[i]
    with pytest.raises(UserError, match="--on-bad-file skip goes on without it"):
        train = open_train(DataConfig(str(tmp_path)), True, RATE)
        for i in range(100):
            train[i]
    (tmp_path / "train" / "clean" / "train00.wav").write_bytes(b"")
    with pytest.raises(UserError, match="train00.wav"):
        open_train(DataConfig(str(tmp_path)), True, RATE)
    with pytest.raises(UserError, match="--bad-share 2"):
        DataConfig(bad_share=2.0)


SIZES = (
    *("--sample-rate", "8000", "--network.channels", "4", "--network.blocks", "1", "--batch-size", "4"),
    *("--valid-files", "0", "--num-workers", "0", "--log-every", "1", "--save-every", "0", "--task", "enhance"),
)  # fmt: skip


def test_a_run_saves_before_it_stops_and_goes_on_without_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    corpus(data, 40)
    words = ["teacher-train", "--data", str(data), "--out", str(out), "--steps", "30", *SIZES]
    first = open_train(DataConfig(str(data)), True, RATE)
    drawn = [first.recording(i) for i in range(120)]
    # the file that is drawn last for the first time
    late = max(set(drawn), key=drawn.index)
    assert drawn.index(late) >= 64  # after what is measured, 4 batches of 16
    bad = data / "train" / "noisy" / f"train{late:02d}.wav"
    break_wave(bad)
    step = drawn.index(late) // 4
    assert main(words) == 2
    assert f"saved at step {step}, continue with --resume" in capfd.readouterr().err
    assert main([*words, "--resume", "--on-bad-file", "skip"]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    notes = [row["text"] for row in log if row["kind"] == "note"]
    assert any("1 of 40 recordings were left out" in text and bad.name in text for text in notes)
    assert [row["step"] for row in log if row["kind"] == "train"] == list(range(1, 31))


def test_what_was_measured_is_part_of_a_run_from_its_first_step(tmp_path: Path) -> None:
    config = TrainConfig(out=str(tmp_path), resume=True)
    model = {"role": "teacher", "network": {"name": "compact", "config": {"residual_std": 0.625}}}
    told = identity(config, {**model, "data": {"source": "x", "on_bad_file": "skip"}})
    assert told["data"] == {"source": "x"}
    save_state(tmp_path, {"raw": {"x": torch.zeros(1)}}, {"identity": told})
    assert begun(config)["network"]["config"]["residual_std"] == 0.625
    assert begun(TrainConfig(out=str(tmp_path))) == {}
