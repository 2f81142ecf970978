"""The commands as a user gives them: the whole chain, resuming, repeating, two processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.cli import main


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a teacher, a student of it with a searched schedule, and a regression network."""
    root = tmp_path_factory.mktemp("cli")
    corpus = str(make_corpus(root / "corpus"))
    rate = ["--sample-rate", "8000", "--data", corpus, "--data.crop-s", "0.5"]
    assert (
        main(
            [
                "teacher-train",
                "--out",
                str(root / "teacher"),
                *rate,
                *SMALL,
                *QUICK,
                "--valid-nfe",
                "1",
                "2",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "student-distill",
                "--teacher",
                str(root / "teacher"),
                "--out",
                str(root / "student"),
                *QUICK,
            ]
        )
        == 0
    )
    search = ["--metric", "sisdr", "--nfe", "2", "--limit", "2", "--iterations", "1"]
    assert main(["o3s-search", "--student", str(root / "student"), *search]) == 0
    regression = [
        "--objective",
        "regression",
        "--init",
        str(root / "teacher"),
        "--out",
        str(root / "regression"),
    ]
    assert main(["teacher-train", *regression, *rate, *QUICK]) == 0
    return root


def test_folders_hold_what_later_commands_need(work: Path) -> None:
    teacher, student, regression = (
        load_config(work / name) for name in ("teacher", "student", "regression")
    )
    assert [teacher["role"], student["role"], regression["role"]] == [
        "teacher",
        "student",
        "regression",
    ]
    # recorded, and taken over
    assert student["data"]["source"] == teacher["data"]["source"] == str(work / "corpus")
    assert student["data"]["crop_s"] == 0.5
    assert student["parent"]["teacher"] == str(work / "teacher")
    assert regression["parent"]["init"] == str(work / "teacher")
    assert student["schedules"]["2"] == student["schedule"] and len(student["schedule"]) == 3
    sizes = teacher["network"]["config"]
    assert (
        sizes["freqs"] == 128 and sizes["shape"] == "magnitude" and 0.5 < sizes["residual_std"] < 2
    )
    assert student["network"] == teacher["network"] == regression["network"]
    for name in ("teacher", "student", "regression"):
        for file in ("model.safetensors", "log.jsonl", "curves.png", "README.md", "training_state"):
            assert (work / name / file).exists(), f"{name}/{file}"
    lines = [json.loads(line) for line in (work / "teacher" / "log.jsonl").read_text().splitlines()]
    (valid,) = [line for line in lines if line["kind"] == "valid"]
    assert {"loss", "sisdr_1", "sisdr_2"} <= set(valid)


def test_evaluate_writes_table_figure_and_audio(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = work / "evaluation"
    options = [
        "--metrics",
        "sisdr",
        "lsd",
        "--teacher-nfe",
        "1",
        "2",
        "--student-nfe",
        "1",
        "2",
        "--limit",
        "3",
        "--audio",
        "1",
    ]
    models = ["--student", str(work / "student"), "--regression", str(work / "regression")]
    options += ["--against", "teacher-2"]
    assert main(["evaluate", *models, "--out", str(out), *options]) == 0
    rows = json.loads((out / "evaluation.json").read_text())
    found = [(row["model"], row["nfe"], row["schedule"]) for row in rows]
    assert found == [
        *[
            ("unprocessed", 0, ""),
            ("regression", 1, ""),
            ("teacher", 1, "uniform"),
            ("teacher", 2, "uniform"),
        ],
        *[("student", 1, "uniform"), ("student", 2, "uniform"), ("student", 2, "o3s")],
    ]
    for row in rows:
        assert (
            row["n"] == 3
            and row["sisdr_ci95"] >= 0
            and row["split"] == "test"
            and row["pesq_mode"] == "nb"
        )
        assert row["model"] == "unprocessed" or (row["params"] > 1000 and row["rtf"] > 0)
    assert rows[-1]["times"] == load_config(work / "student")["schedule"]
    assert len(json.loads((out / "utterances.json").read_text())) == 3 * len(rows)
    changes = json.loads((out / "differences.json").read_text())
    assert [(row["model"], row["nfe"], row["schedule"]) for row in changes] == [
        each for each in found if each != ("teacher", 2, "uniform")
    ]
    regression, teacher, change = rows[1], rows[3], changes[1]
    assert change["lsd"] == pytest.approx(regression["lsd"] - teacher["lsd"])
    assert change["lsd_n"] == 3 and change["lsd_ci95"] > 0
    waves = {file.name for file in out.glob("audio/*/*.wav")}
    assert {
        "clean.wav",
        "unprocessed.wav",
        "teacher-2.wav",
        "student-1.wav",
        "student-2-o3s.wav",
        "regression.wav",
    } <= waves
    for file in ("evaluation.csv", "utterances.csv", "quality.png", "README.md"):
        assert (out / file).stat().st_size > 0
    assert "student" in capsys.readouterr().out


def test_a_run_is_resumed_and_repeated_exactly(work: Path) -> None:
    config = str(work / "teacher" / "config.json")
    again = work / "again"
    command = ["teacher-train", "--config", config, "--out", str(again), "--valid-files", "0"]
    assert main([*command, "--time-limit-hours", "1e-9"]) == 0
    assert load_config(again)["training"]["step"] == 1
    assert main([*command, "--resume"]) == 0
    assert load_config(again)["training"]["step"] == 3
    one, two = load_tensors(work / "teacher"), load_tensors(again)
    assert all(torch.equal(one[key], two[key]) for key in one)
    # finished: nothing to do
    assert main(["teacher-train", "--config", config, "--out", str(again), "--resume"]) == 0
    other = work / "other"
    assert (
        main(
            [
                "teacher-train",
                "--config",
                config,
                "--out",
                str(other),
                "--network.channels",
                "8",
                "--steps",
                "1",
            ]
        )
        == 0
    )
    assert load_config(other)["network"]["config"]["channels"] == 8  # an option overrides the file
    assert load_config(other)["training"]["steps"] == 1
    student = work / "student-again"
    assert (
        main(
            [
                "student-distill",
                "--config",
                str(work / "student" / "config.json"),
                "--out",
                str(student),
                "--valid-files",
                "0",
            ]
        )
        == 0
    )
    one, two = load_tensors(work / "student"), load_tensors(student)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_bf16_on_a_processor_without_it_is_told(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from accelerate.state import AcceleratorState

    config = str(work / "teacher" / "config.json")
    AcceleratorState._reset_state()  # one process has one precision otherwise
    for capability, told in (("AVX2", True), ("AVX512", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        command = ["teacher-train", "--config", config, "--out", str(work / capability)]
        few = ["--steps", "1", "--mixed-precision", "bf16", "--valid-files", "0"]
        assert main([*command, *few]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert ("no AVX-512" in said) == told
    AcceleratorState._reset_state()


def test_enhance_from_a_folder_of_speech_and_noise(work: Path) -> None:
    corpus = ["--data", str(work / "corpus"), "--sample-rate", "8000", "--data.crop-s", "0.5"]
    assert (
        main(
            [
                "teacher-train",
                "--task",
                "enhance",
                "--sigma-0",
                "0.2",
                "--out",
                str(work / "enhance"),
                *corpus,
                *SMALL,
                *QUICK,
            ]
        )
        == 0
    )
    config = load_config(work / "enhance")
    assert config["task"]["sigma_0"] == 0.2 == config["network"]["config"]["sigma_0"]
    meanflow = ["--objective", "meanflow", "--meanflow.mf-r-equals-t-prob", "0.5", "--nfe", "2"]
    assert (
        main(
            [
                "student-distill",
                "--teacher",
                str(work / "enhance"),
                "--out",
                str(work / "enhanced"),
                *meanflow,
                *QUICK,
            ]
        )
        == 0
    )
    assert load_config(work / "enhanced")["schedule"] == [0.0, 0.5, 1.0]
    source = work / "noisy.flac"
    soundfile.write(source, voice(3, 2.0, 16000), 16000)
    assert (
        main(
            ["restore", str(work / "enhanced"), str(source), str(work / "clean.flac"), "--nfe", "1"]
        )
        == 0
    )
    assert soundfile.info(work / "clean.flac").frames == 32000


def test_restore_keeps_length_rate_channels_and_format(work: Path) -> None:
    folder, out = work / "in", work / "out"
    (folder / "below").mkdir(parents=True)
    stereo = np.stack([voice(1, 1.0, 22050), voice(2, 1.0, 22050)], axis=1)
    soundfile.write(folder / "stereo.wav", stereo, 22050, subtype="PCM_24")
    soundfile.write(folder / "below" / "mono.flac", voice(3, 0.7), 8000)
    soundfile.write(folder / "below" / "short.wav", voice(3, 0.7)[:2], 8000, subtype="FLOAT")
    assert main(["restore", str(work / "student"), str(folder), str(out)]) == 0
    for file in (path for path in folder.rglob("*") if path.is_file()):
        before, after = soundfile.info(file), soundfile.info(out / file.relative_to(folder))
        for name in ("frames", "samplerate", "channels", "format", "subtype"):
            assert getattr(before, name) == getattr(after, name), f"{file.name} {name}"
    stamp = (out / "stereo.wav").stat().st_mtime_ns
    (out / "below" / "mono.flac").unlink()
    # only what is missing is done again
    assert main(["restore", str(work / "student"), str(folder), str(out)]) == 0
    assert (out / "stereo.wav").stat().st_mtime_ns == stamp and (
        out / "below" / "mono.flac"
    ).is_file()


def test_restore_in_blocks_with_any_model(work: Path) -> None:
    source = work / "long.wav"
    soundfile.write(source, np.tile(voice(4), 6), 8000)
    blocks = ["--block-s", "2", "--overlap-s", "0.5"]
    for model, options in (
        ("student", ["--schedule", "0", "0.4", "1"]),
        ("teacher", ["--nfe", "2"]),
        ("regression", []),
    ):
        target = work / f"long-{model}.wav"
        assert (
            main(["restore", str(work / model), str(source), str(target), *blocks, *options]) == 0
        )
        restored, _ = soundfile.read(target)
        assert (
            len(restored) == soundfile.info(source).frames
            and np.isfinite(restored).all()
            and np.abs(restored).max() > 0
        )


def test_info_of_checkpoint_and_machine(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(work / "student")]) == 0
    text = capsys.readouterr().out
    assert "student" in text and "vocode at 8000 Hz" in text and "searched" in text
    count = sum(value.numel() for value in load_tensors(work / "student").values())
    assert f"{count:,}" in text
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out


def test_demo_runs_the_chain_and_goes_on_where_it_was(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mfdistill.commands import plan

    monkeypatch.setattr(plan, "seconds_per_update", lambda command, accelerator: (1, 30.0, 1e6))
    options = [
        "demo",
        "--out",
        str(work / "demo"),
        "--data",
        str(work / "corpus"),
        "--data.crop-s",
        "0.5",
        *SMALL,
    ]
    assert main(options) == 0
    rows = json.loads((work / "demo" / "evaluation" / "evaluation.json").read_text())
    assert {row["model"] for row in rows} == {"unprocessed", "teacher", "student"} and any(
        row["schedule"] == "o3s" for row in rows
    )
    before = (work / "demo" / "student" / "training_state" / "state.json").stat().st_mtime_ns
    assert main(options) == 0
    assert (
        work / "demo" / "student" / "training_state" / "state.json"
    ).stat().st_mtime_ns == before


def launch(arguments: list[str], machines: int = 1) -> None:
    """Two processes on the CPU, of one machine or as of two; ``accelerate launch --cpu`` would
    start one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = Path(__file__).resolve().parents[1]
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", str(machines)]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    options += ["--main_process_ip", "127.0.0.1"] if machines > 1 else []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    started = [
        subprocess.Popen(
            [*command, *(["--machine_rank", str(rank)] if machines > 1 else []), *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(machines)
    ]
    for process in started:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors[-3000:]


def test_two_processes_give_what_one_gives(work: Path) -> None:
    again = work / "two"
    config = ["--config", str(work / "teacher" / "config.json"), "--valid-files", "2"]
    train = ["-m", "mfdistill", "teacher-train", *config, "--out", str(again / "teacher")]
    launch(train, machines=2)
    assert load_config(again / "teacher")["training"]["processes"] == 2
    one, two = load_tensors(work / "teacher"), load_tensors(again / "teacher")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)

    # the commands write what they find into the student's folder, so each has one of its own
    alone, together = work / "alone", again / "together"
    for folder in (alone, together):
        shutil.copytree(work / "student", folder / "student")
    distil = ["student-distill", "--teacher", str(work / "teacher"), *QUICK]

    def use(folder: Path) -> list[list[str]]:
        student = ["--student", str(folder / "student")]
        few = ["--metrics", "sisdr", "--teacher-nfe", "1", "--student-nfe", "1", "--limit", "3"]
        search = ["--metric", "sisdr", "--limit", "2", "--iterations", "1"]
        recordings = str(work / "corpus" / "clean" / "test")
        return [
            ["os3-search", *student, *search, "--out", str(folder / "search")],
            ["evaluate", *student, *few, "--audio", "1", "--out", str(folder / "evaluation")],
            ["restore", str(folder / "student"), recordings, str(folder / "restored")],
        ]

    finish = ["student-finish", "--student", str(work / "student"), *QUICK]
    finish += ["--critic.weight", "0.1", "--critic.warmup", "1", "--critic.ramp", "0"]
    finish += ["--temperature", "0.5", "--anchor", "0.1"]
    chain = [[*distil, "--out", str(again / "student")], *use(together)]
    chain += [[*finish, "--out", str(together / "finished")]]
    launch([str(Path(__file__).with_name("cli_corpus.py")), json.dumps(chain)])
    assert main([*finish, "--out", str(alone / "finished")]) == 0
    for first, second in (
        (work / "student", again / "student"),
        (alone / "finished", together / "finished"),
    ):
        one, two = load_tensors(first), load_tensors(second)
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)

    # what trains nothing is the same to the bit
    for command in use(alone):
        assert main(command) == 0
    for name in ("search/o3s-2.json", "evaluation/evaluation.json", "evaluation/utterances.json"):
        one, two = (plain(json.loads((folder / name).read_text())) for folder in (alone, together))
        assert two == one, name
    sounds = [file.relative_to(alone) for file in sorted(alone.rglob("*.wav"))]
    assert {file.parts[0] for file in sounds} == {"evaluation", "restored"} and sounds == [
        file.relative_to(together) for file in sorted(together.rglob("*.wav"))
    ]
    for file in sounds:  # the header of a float WAV holds the time of writing
        one, two = (soundfile.read(folder / file)[0] for folder in (alone, together))
        assert np.array_equal(two, one), file


def plain(value: Any) -> Any:
    """Without times measured and the folders of the models."""
    if isinstance(value, dict):
        left = ("seconds", "rtf", "checkpoint")
        return {key: plain(item) for key, item in value.items() if key not in left}
    return [plain(item) for item in value] if isinstance(value, list) else value
