"""What trackers get of a training: numbers, hyper-parameters, sounds and spectrograms, read back
from what they wrote.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from cli_corpus import QUICK, SMALL, make_corpus

from mfdistill.cli import main
from mfdistill.distill.trackers import chosen, flat


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def train(corpus: Path, out: Path, *options: str) -> int:
    quick = [word for word in QUICK if word not in ("sisdr", "--valid-metrics")]
    common = ["--task", "enhance", "--sample-rate", "8000", "--data", str(corpus), "--data.crop-s", "0.5"]  # fmt: skip
    return main(
        ["teacher-train", *common, "--out", str(out), *SMALL, *quick, "--valid-metrics", "sisdr", *options]
    )  # fmt: skip


def test_flat() -> None:
    nested = {"a": {"b": 1, "c": None, "d": {"e": True}}, "f": [1, 2], "g": "x"}
    assert flat(nested) == {"a.b": 1, "a.d.e": True, "f": "[1, 2]", "g": "x"}


def test_tensorboard(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert train(corpus, out, "--valid-nfe", "2") == 0
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"train/loss", "valid/sisdr_2"} <= set(tags["scalars"])
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3]
    (sound, *_) = tags["audio"]
    assert len(tags["audio"]) == 2 and sound.startswith("restored_2/")
    (heard,) = board.Audio(sound)
    assert (heard.step, heard.sample_rate) == (3, 8000) and heard.encoded_audio_string[
        :4
    ] == b"RIFF"
    (image,) = board.Images(f"{sound}/spectrogram")
    assert image.height == 129 and image.encoded_image_string[:4] == b"\x89PNG"
    (settings,) = out.rglob("hparams.yml")
    assert (
        "training.lr: 0.001" in settings.read_text()
        and "task.name: enhance" in settings.read_text()
    )


def test_none(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(corpus, tmp_path / "run", "--log-with", "none") == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert train(corpus, tmp_path / "other", "--log-with", "wandbb") == 2


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed(
    name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr("mfdistill.distill.trackers.find_spec", lambda module: None)
    assert chosen(None) is None
    assert train(corpus, tmp_path / "run", "--log-with", name) == 2
    said = capsys.readouterr().err
    assert f"--log-with {name}: the package '{name}' is not installed; pip install '{name}'" in said
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_offline(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("needs wandb (pip install wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    assert train(corpus, out, "--log-with", "wandb") == 0
    (folder,) = (out / "wandb").glob("offline-run-*")
    (written,) = folder.glob("*.wandb")
    data = written.read_bytes()
    for word in (b"train/loss", b"valid/sisdr_1", b"training.lr", b"enhance"):
        assert word in data, word
    media = [file.suffix for file in (folder / "files" / "media").rglob("*.*")]
    assert sorted(media) == [".png"] * 4 + [".wav"] * 4
    # continued: the same run
    known = (out / "wandb" / "run-id.txt").read_text()
    assert train(corpus, out, "--log-with", "wandb", "--resume", "--extend", "--steps", "5") == 0
    assert (out / "wandb" / "run-id.txt").read_text() == known and known in written.name


def test_trackio_offline(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("needs trackio (pip install trackio)")
    import subprocess
    import sys

    # its folder is chosen when it is imported
    code = "import json, sys; from test_trackers import train; from pathlib import Path\n"
    code += "sys.exit(train(Path(sys.argv[1]), Path(sys.argv[2]), '--log-with', 'trackio'))"
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, str(corpus), str(tmp_path / "run")], capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    held = b"".join(file.read_bytes() for file in (tmp_path / "trackio").rglob("*.db*"))
    for word in (b"train/loss", b"valid/sisdr_1"):
        assert word in held, word
    media = {file.suffix for file in (tmp_path / "trackio").rglob("media/**/*.*")}
    assert media == {".png", ".wav"}
