"""Bad input to the commands: one clear line on stderr, exit code 2, nothing written or damaged."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill import cli
from mfdistill.distill.interrupt import Interrupted


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a vocoding teacher, its student, and a teacher of another task."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("errors")
    rate = [
        "--sample-rate",
        "8000",
        "--data",
        str(make_corpus(root / "corpus")),
        "--data.crop-s",
        "0.5",
        *SMALL,
        *QUICK,
    ]
    for name, options in (("teacher", []), ("enhance", ["--task", "enhance"])):
        assert (
            cli.main(
                [
                    "teacher-train",
                    "--out",
                    str(root / name),
                    *rate,
                    *options,
                    "--steps",
                    "1",
                    "--valid-files",
                    "0",
                ]
            )
            == 0
        )
    options = ["--out", str(root / "student"), *QUICK, "--steps", "1", "--valid-files", "0"]
    assert cli.main(["student-distill", "--teacher", str(root / "teacher"), *options]) == 0
    return root


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command says last."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("mfdistill: error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["teacher-trian"], ["teacher-trian", "did you mean teacher-train?"]),
        (["teacher-train", "--stpes", "3"], ["--stpes", "did you mean --steps?"]),
        (
            ["teacher-train", "--network.chanels=3"],
            ["--network.chanels", "did you mean --network.channels?"],
        ),
        (["teacher-train", "--steps", "many"], ["--steps", "many"]),
        (["teacher-train", "--steps"], ["--steps", "Missing value"]),
        (["teacher-train", "--steps", "0"], ["--steps 0", "at least 1"]),
        (["teacher-train", "--spectral", "0.1"], ["--spectral", "--objective regression"]),
        (["teacher-train", "--task", "sing"], ["sing", "--task", "vocode"]),
        (["teacher-train", "--sample-rate", "96000"], ["--sample-rate 96000", "48000"]),
        (
            ["teacher-train", "--data.sample-rate", "16001"],
            ["no such option", "did you mean --sample-rate?"],
        ),
        (["teacher-train", "--data", "/nowhere/at-all"], ["/nowhere/at-all", "no such folder"]),
        (["teacher-train", "--config", "/nowhere/config.json"], ["/nowhere/config.json"]),
        (["teacher-train", "--network.band-stride", "7"], ["--network.band-stride 7", "256 bins"]),
        (["student-distill"], ["--teacher"]),
        (["student-distill", "--teacher", "/nowhere/at-all"], ["/nowhere/at-all"]),
        (["evaluate"], ["--student"]),
        (["evaluate", "--teacher", "x", "--metrics", "pesk"], ["pesk", "pesq"]),
        (
            ["os3-search", "--student", "enhance", "--metric", "fd_frames"],
            ["fd_frames", "whole set"],
        ),
        (["os3-search", "--metric", "loudness"], ["loudness"]),
        (["demo", "--minutes", "1"], ["--minutes 1"]),
        (["info", "/nowhere/at-all"], ["/nowhere/at-all"]),
        (["restore", "student"], ["IN"]),
    ],
)
def test_bad_options(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MFDISTILL_CACHE", str(tmp_path / "cache"))
    if arguments[0] == "teacher-train" and "--network.band-stride" in arguments:
        arguments = [*arguments, "--data", str(make_corpus(tmp_path / "corpus"))]
    line = told(arguments, capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_checkpoints_in_the_wrong_place(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def where(*arguments: str) -> str:
        return told(list(arguments), capsys)

    assert "not a teacher" in where(
        "student-distill", "--teacher", str(work / "student"), "--out", str(work / "new")
    )
    assert "not a student" in where("os3-search", "--student", str(work / "teacher"))
    assert "another task" in where(
        "evaluate", "--student", str(work / "student"), "--teacher", str(work / "enhance")
    )
    assert "choose from unprocessed, teacher-1," in where(
        "evaluate", "--student", str(work / "student"), "--against", "teacher-7"
    )
    preset = where(
        "student-distill",
        "--teacher",
        str(work / "teacher"),
        "--preset",
        "f5-paper",
        "--out",
        str(work / "new"),
    )
    assert (
        "--preset f5-paper: is for teachers of kind f5 or f5-unett" in preset
        and "is of another kind" in preset
    )
    for option in (["--tts.data-free"], ["--guidance.strength", "2"]):
        line = where(
            "student-distill",
            "--teacher",
            str(work / "teacher"),
            *option,
            "--out",
            str(work / "new"),
        )
        assert f"{option[0]}: is for teachers of" in line and "F5-TTS" in line
    init = [
        "--init",
        str(work / "enhance"),
        "--sample-rate",
        "8000",
        "--data",
        str(work / "corpus"),
    ]
    assert "another task" in where("teacher-train", *init, "--out", str(work / "new"))
    assert "holds a student" in where(
        "teacher-train", *init, "--init", str(work / "student"), "--out", str(work / "new")
    )
    assert "made by teacher-train, not by student-distill" in where(
        "student-distill", "--config", str(work / "teacher" / "config.json")
    )
    assert "already holds files" in where(
        "student-distill", "--teacher", str(work / "teacher"), "--out", str(work / "student")
    )
    assert "resume" in where(
        "student-distill",
        "--teacher",
        str(work / "teacher"),
        "--out",
        str(work / "student"),
        "--resume",
        "--lr",
        "1",
    )
    assert not (work / "new").exists()

    broken = work / "broken"
    shutil.copytree(work / "student", broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    assert "damaged" in where(
        "restore",
        str(broken),
        str(work / "corpus" / "clean" / "test" / "test0" / "0.wav"),
        str(work / "x.wav"),
    )
    (broken / "config.json").write_text("{")
    assert "not valid JSON" in where("info", str(broken))


def test_a_mistyped_name_below_a_folder_is_not_asked_of_the_hub(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    (tmp_path / "runs").mkdir()
    for command in (
        ["student-distill", "--teacher"],
        ["evaluate", "--student"],
        ["os3-search", "--student"],
    ):
        assert "runs/studnet: no such file or folder in runs; check the name" in told(
            [*command, "runs/studnet"], capsys
        )
        assert "the hub was asked" in told([*command, "owner/studnet"], capsys)
    assert "runs/speech: no such folder" in told(
        ["teacher-train", "--data", "runs/speech", "--out", "new"], capsys
    )
    assert "--data.streaming" in told(
        ["teacher-train", "--data", "runs/speech", "--data.streaming", "--out", "new"], capsys
    )
    assert "the hub was asked" in told(
        ["teacher-train", "--data", "owner/speech", "--out", "new"], capsys
    )


def test_a_clean_file_without_its_noisy_twin(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "valid", "test"):
        for kind in ("clean", "noisy"):
            (tmp_path / split / kind).mkdir(parents=True)
            soundfile.write(tmp_path / split / kind / "a.wav", voice(1), 8000)
    soundfile.write(tmp_path / "train" / "clean" / "lonely.wav", voice(2), 8000)
    options = ["--sample-rate", "8000", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    line = told(["teacher-train", "--task", "enhance", *options], capsys)
    assert "lonely" in line and "noisy" in line


def test_bad_audio(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = voice(5)
    soundfile.write(tmp_path / "good.wav", good, 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000, np.float32), 8000)
    soundfile.write(tmp_path / "one.wav", good[:1], 8000)
    soundfile.write(
        tmp_path / "nan.wav",
        np.where(np.arange(good.size) == 99, np.nan, good),
        8000,
        subtype="FLOAT",
    )
    (tmp_path / "empty.wav").touch()
    (tmp_path / "truncated.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:4000])
    (tmp_path / "text.wav").write_text("no audio at all")
    words = {
        "silent": "silent",
        "one": "one sample",
        "nan": "NaN",
        "empty": "empty",
        "truncated": "truncated",
        "text": "not an audio file",
    }
    target = tmp_path / "target.wav"
    for name, word in {**words, "missing": "no such file"}.items():
        line = told(
            ["restore", str(work / "student"), str(tmp_path / f"{name}.wav"), str(target)], capsys
        )
        assert f"{name}.wav" in line and word in line
        assert not target.exists()
    line = told(["restore", str(work / "student"), str(tmp_path), str(tmp_path / "out")], capsys)
    assert f"{len(words)} of {len(words) + 1} files" in line
    # the others do not stop it
    assert [file.name for file in (tmp_path / "out").glob("[!.]*")] == ["good.wav"]
    target.write_bytes(b"precious")
    assert "--overwrite" in told(
        ["restore", str(work / "student"), str(tmp_path / "good.wav"), str(target)], capsys
    )
    assert target.read_bytes() == b"precious"


def test_full_disk_and_stops_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mfdistill.commands import info

    def full(command: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/full/file")

    monkeypatch.setattr(info, "run", full)
    assert "/full/file: No space left" in told(["info"], capsys)

    def stop(command: object) -> None:
        raise Interrupted(15, "runs/x: stopped by SIGTERM; saved at step 7, continue with --resume")

    monkeypatch.setattr(info, "run", stop)
    assert cli.main(["info"]) == 143
    assert "saved at step 7" in capsys.readouterr().err
