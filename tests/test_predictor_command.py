"""teacher-train --predictor and all that follows: resume, repeat, distil, search, evaluate, stream,
compress; and what is refused.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill.checkpoint import load_config, load_tensors, save_folder
from mfdistill.cli import main
from mfdistill.commands.same import same_features
from mfdistill.distill.objectives import estimate
from mfdistill.distill.opening import open_model
from mfdistill.errors import UserError
from mfdistill.tasks import default_task

BRIEF = [*QUICK, "--valid-files", "0"]
SMALLER = [*SMALL, "--network.filter-frames", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, causal enhancement by a regression network, a teacher behind it, and the teacher's
    student.
    """
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("predictor")
    make_corpus(root / "corpus")
    train(root, "regression", "--objective", "regression", "--lr", "0.01", "--spectral", "0.1")
    train(
        root,
        "teacher",
        "--predictor",
        str(root / "regression"),
        "--valid-files",
        "1",
        "--valid-nfe",
        "1",
    )
    assert (
        main(
            [
                "student-distill",
                "--teacher",
                str(root / "teacher"),
                "--out",
                str(root / "student"),
                *BRIEF,
            ]
        )
        == 0
    )
    return root


def options(
    root: Path, out: str, *more: str, task: str = "enhance", causal: bool = True
) -> list[str]:
    data = [
        "--data",
        str(root / "corpus"),
        "--data.crop-s",
        "0.25",
        "--sample-rate",
        "8000",
        "--task",
        task,
    ]
    return [
        "teacher-train",
        "--out",
        str(root / out),
        *data,
        *(["--causal"] if causal else []),
        *SMALLER,
        *BRIEF,
        *more,
    ]


def train(root: Path, out: str, *more: str, task: str = "enhance", causal: bool = True) -> None:
    assert main(options(root, out, *more, task=task, causal=causal)) == 0


def same_tensors(one: Path, two: Path) -> bool:
    a, b = load_tensors(one), load_tensors(two)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command says last."""
    capsys.readouterr()
    assert main(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mfdistill: error: ")
    return line


def test_a_teacher_holds_its_predictor_and_starts_at_its_estimate(work: Path) -> None:
    config, tensors, front = (
        load_config(work / "teacher"),
        load_tensors(work / "teacher"),
        load_tensors(work / "regression"),
    )
    task = config["task"]
    assert (task["prior_mean"], task["prior_shape"], task["sigma_0"]) == ("e", "flat", 0.05)
    assert config["network"]["config"]["predicted"] and config["network"]["config"]["mean"] == "e"
    assert (
        config["predictor"]["source"] == str(work / "regression")
        and len(config["predictor"]["sha256"]) == 64
    )
    assert all(torch.equal(tensors[f"predictor.{key}"], value) for key, value in front.items())
    regression, teacher = open_model(work / "regression"), open_model(work / "teacher")
    wave = torch.from_numpy(voice(7))[None]
    cond = teacher.task.condition(wave)
    with torch.no_grad():
        own = estimate(regression.module, regression.task.path, regression.task.condition(wave))
    assert torch.equal(cond["e"], own) and not torch.equal(cond["e"], cond["y"])


def test_a_student_starts_at_its_teacher_and_holds_the_same_predictor(work: Path) -> None:
    again = work / "untrained"
    assert (
        main(
            [
                "student-distill",
                "--teacher",
                str(work / "teacher"),
                "--out",
                str(again),
                *BRIEF,
                "--steps",
                "1",
                "--lr",
                "1e-30",
            ]
        )
        == 0
    )
    teacher, student = open_model(work / "teacher"), open_model(again)
    cond = student.task.condition(torch.from_numpy(voice(7))[None])
    assert torch.equal(cond["e"], teacher.task.condition(torch.from_numpy(voice(7))[None])["e"])
    z, t = torch.randn_like(cond["y"]), torch.full((1,), 0.25)
    with torch.no_grad():
        for r in (0.25, 0.5, 1.0):
            torch.testing.assert_close(
                student.module(z, t, torch.full((1,), r), cond), teacher.module(z, t, cond)
            )
    front = {
        key: value
        for key, value in load_tensors(work / "teacher").items()
        if key.startswith("predictor.")
    }
    after = load_tensors(work / "student")
    assert front and all(torch.equal(after[key], value) for key, value in front.items())
    assert load_config(work / "student")["predictor"] == load_config(work / "teacher")["predictor"]


def test_a_run_is_resumed_and_repeated_from_what_its_folder_holds(work: Path) -> None:
    config, again = str(work / "teacher" / "config.json"), work / "again"
    command = ["teacher-train", "--config", config, "--out", str(again), "--valid-files", "0"]
    assert main([*command, "--time-limit-hours", "1e-9"]) == 0
    (work / "regression").rename(work / "elsewhere")
    try:
        assert main([*command, "--resume"]) == 0
        student = [
            "student-distill",
            "--config",
            str(work / "student" / "config.json"),
            "--out",
            str(work / "student-again"),
        ]
        assert main([*student, "--valid-files", "0"]) == 0
    finally:
        (work / "elsewhere").rename(work / "regression")
    assert (
        load_config(again)["training"]["step"] == 3
        and load_config(again)["predictor"] == load_config(work / "teacher")["predictor"]
    )
    assert same_tensors(work / "teacher", again) and same_tensors(
        work / "student", work / "student-again"
    )
    third = ["--out", str(work / "third"), "--predictor", str(work / "regression")]
    assert (
        main(
            [
                "teacher-train",
                "--config",
                config,
                *third,
                "--sigma-0",
                "0.1",
                "--prior-shape",
                "magnitude",
            ]
        )
        == 0
    )
    task = load_config(work / "third")["task"]
    assert (task["sigma_0"], task["prior_shape"], task["prior_mean"]) == (0.1, "magnitude", "e")
    train(work, "fourth", "--predictor", str(work / "regression"), "--init", str(work / "teacher"))
    assert load_config(work / "fourth")["parent"]["init"] == str(work / "teacher")


def test_search_evaluate_restore_and_info(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--nfe", "2", "--limit", "1", "--iterations", "1", "--patience", "1"]
    for metric in ("sisdr", "teacher-mse"):
        assert (
            main(["os3-search", "--student", str(work / "student"), "--metric", metric, *search])
            == 0
        )
    models = [
        "--student",
        str(work / "student"),
        "--regression",
        str(work / "regression"),
        "--out",
        str(work / "evaluation"),
    ]
    brief = ["--metrics", "sisdr", "--limit", "1", "--audio", "0"]
    assert main(["evaluate", *models, *brief, "--teacher-nfe", "1", "--student-nfe", "1"]) == 0
    rows = {
        (row["model"], row["schedule"]): row
        for row in json.loads((work / "evaluation" / "evaluation.json").read_text())
    }
    assert {model for model, _ in rows} == {"unprocessed", "regression", "teacher", "student"} and (
        "student",
        "o3s",
    ) in rows
    assert rows["student", "uniform"]["params"] == sum(
        value.numel() for value in load_tensors(work / "student").values()
    )
    soundfile.write(work / "in.wav", voice(3), 8000)
    for model, more in (("student", []), ("teacher", ["--nfe", "2"])):
        assert (
            main(
                [
                    "restore",
                    str(work / model),
                    str(work / "in.wav"),
                    str(work / f"{model}.wav"),
                    *more,
                ]
            )
            == 0
        )
        made, _ = soundfile.read(work / f"{model}.wav")
        assert len(made) == len(voice(3)) and np.isfinite(made).all()
    capsys.readouterr()
    assert main(["info", str(work / "student")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    count = sum(value.numel() for value in load_tensors(work / "regression").values())
    assert "predictor compact" in text and f"{count:,} parameters" in text and "regression" in text


def test_meanflow_stream_export_and_compress(work: Path) -> None:
    meanflow = ["--objective", "meanflow", "--out", str(work / "meanflow")]
    assert (
        main(["student-distill", "--teacher", str(work / "teacher"), *meanflow, *BRIEF, "--causal"])
        == 0
    )
    assert main(["stream", "--verify", str(work / "meanflow"), "--nfe", "1"]) == 0
    assert (
        main(["stream", "--student", str(work / "student"), "--export", str(work / "hop.onnx")])
        == 0
    )
    soundfile.write(work / "live.wav", voice(3)[:3000], 8000)
    written = []
    for runner in ("eager", "onnx"):
        target = work / f"live-{runner}.wav"
        assert (
            main(
                [
                    "stream",
                    str(work / "live.wav"),
                    str(target),
                    "--student",
                    str(work / "student"),
                    "--runner",
                    runner,
                ]
            )
            == 0
        )
        written.append(soundfile.read(target)[0])
    np.testing.assert_allclose(*written, atol=1e-3)
    for out, how in (("small", ["--keep", "3"]), ("eight", ["--int8", "--calibration-files", "1"])):
        assert (
            main(
                [
                    "compress",
                    "--model",
                    str(work / "student"),
                    "--out",
                    str(work / out),
                    *how,
                    *BRIEF,
                ]
            )
            == 0
        )
        assert load_config(work / out)["predictor"] == load_config(work / "student")["predictor"]
        assert "e" in open_model(work / out).task.condition(torch.from_numpy(voice(3))[None])
    half = work / "half"
    config = {
        key: load_config(work / "student")[key]
        for key in ("role", "task", "network", "schedule", "predictor")
    }
    save_folder(
        half, {key: value.half() for key, value in load_tensors(work / "student").items()}, config
    )
    assert open_model(half).task.predictor is not None


@pytest.mark.parametrize(
    ("task", "causal"), [("phase", True), ("vocode", False), ("bandwidth", True)]
)
def test_other_tasks_and_networks(task: str, causal: bool, work: Path) -> None:
    brief = ["--steps", "1"]
    train(work, f"{task}-front", "--objective", "regression", *brief, task=task, causal=causal)
    unet = (
        ["--backbone", "causal_ncsnpp", "--unet.nf", "8", "--unet.ch-mult", "1", "2"]
        if task == "phase"
        else []
    )
    train(
        work,
        task,
        "--predictor",
        str(work / f"{task}-front"),
        *unet,
        *brief,
        task=task,
        causal=causal,
    )
    assert load_config(work / task)["task"]["prior_mean"] == "e"
    more = ["--predictor", str(work / task), "--prior-mean", "y"] if task == "bandwidth" else None
    if more:  # the predictor of a model that has one, seen by a flow that starts at the input
        train(work, f"{task}-seen", *more, *brief, task=task, causal=causal)
        assert load_config(work / f"{task}-seen")["task"]["prior_shape"] == "profile"
        train(
            work,
            f"{task}-spread",
            "--predictor",
            str(work / task),
            "--spread",
            "data",
            *brief,
            task=task,
            causal=causal,
        )
        assert load_config(work / f"{task}-spread")["task"]["sigma_0"] not in (0.05, 3.0)


def test_what_cannot_stand_in_front_is_told_in_one_line(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(work, "plain", "--steps", "1")
    sees = ["--objective", "regression", "--normalise", "none", "--steps", "1"]
    train(work, "sees-all", *sees, causal=False)
    # a regression network that has a predictor: nothing here makes one
    behind = work / "behind"
    shutil.copytree(
        work / "teacher", behind, ignore=shutil.ignore_patterns("training_state", "tensorboard")
    )
    save_folder(behind, load_tensors(behind), {**load_config(behind), "role": "regression"})
    front = ["--predictor", str(work / "regression")]
    for arguments, words in (
        (
            options(work, "x", "--predictor", str(work / "plain")),
            ["holds a teacher, not a regression network"],
        ),
        (options(work, "x", "--predictor", str(work / "nowhere")), ["nowhere", "no such file"]),
        (
            options(work, "x", "--predictor", str(work / "sees-all")),
            ["sees later frames", "--causal"],
        ),
        (options(work, "x", *front, causal=False), ["another task", "stft.causal"]),
        (options(work, "x", *front, task="phase"), ["another task", "name is 'enhance'"]),
        (options(work, "x", *front, "--framing", "16/8"), ["another task", "stft."]),
        (options(work, "x", *front, "--normalise", "peak"), ["another task", "normalise"]),
        (options(work, "x", "--predictor", str(behind)), ["has a predictor in front of it"]),
        (
            options(work, "x", *front, "--objective", "regression"),
            ["--predictor", "--objective regression"],
        ),
        (
            options(work, "x", *front, "--init", str(work / "plain")),
            ["--init", "without a predictor"],
        ),
        (
            options(work, "x", "--init", str(work / "teacher")),
            ["--init", f"add --predictor {work / 'teacher'}"],
        ),
        (options(work, "x", "--prior-mean", "e"), ["--prior-mean e", "--predictor"]),
        (["teacher-train", "--task", "token2mel", *front], ["--predictor", "token2mel"]),
        (
            [
                "student-distill",
                "--teacher",
                str(work / "teacher"),
                "--out",
                str(work / "x"),
                *front,
            ],
            ["--predictor", "--causal"],
        ),
        (
            [
                "student-distill",
                "--teacher",
                str(work / "plain"),
                "--causal",
                "--out",
                str(work / "x"),
                *front,
            ],
            ["has none"],
        ),
    ):
        line = told(arguments, capsys)
        assert all(word in line for word in words), line
    assert not (work / "x").exists()
    line = told(
        options(
            work, "teacher", "--predictor", str(work / "teacher"), "--resume", "--sigma-0", "0.2"
        ),
        capsys,
    )
    assert "cannot resume" in line


def test_a_causal_student_of_a_teacher_that_sees_everything(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level = ["--normalise", "none", "--steps", "1"]
    train(work, "full-front", "--objective", "regression", *level, causal=False)
    train(work, "full", "--predictor", str(work / "full-front"), *level, causal=False)
    command = [
        "student-distill",
        "--teacher",
        str(work / "full"),
        "--causal",
        "--out",
        str(work / "cut"),
        *BRIEF,
    ]
    assert "name a causal one with --predictor" in told(command, capsys)
    assert main([*command, "--predictor", str(work / "regression")]) == 0
    assert load_config(work / "cut")["predictor"]["source"] == str(work / "regression")
    soundfile.write(work / "cut-in.wav", voice(3)[:2000], 8000)
    assert (
        main(
            [
                "stream",
                str(work / "cut-in.wav"),
                str(work / "cut-out.wav"),
                "--student",
                str(work / "cut"),
            ]
        )
        == 0
    )


def test_priors_make_no_other_features() -> None:
    own = default_task("enhance", 8000)
    same_features(replace(own, sigma_0=0.7, prior_mean="zero", temperature=0.5), own, "x")
    with pytest.raises(UserError, match="x: is of another task .normalise is 'peak', here 'none'"):
        same_features(replace(own, normalise="none"), own, "x")
