"""student-finish as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.cli import main
from mfdistill.commands.parsing import parse
from mfdistill.commands.student_finish import opened
from mfdistill.networks.predictor import estimate
from mfdistill.students import load_student, sample
from mfdistill.teachers import load_network


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def do(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus; teacher, student with two searched steps and regression network, trained a little;
    the student finished.
    """
    root = tmp_path_factory.mktemp("finish")
    corpus = ["--data", make_corpus(root / "corpus"), "--data.crop-s", "0.5"]
    rate = ["--sample-rate", "8000", *corpus]
    do("teacher-train", "--out", root / "teacher", *rate, *SMALL, *QUICK)
    do("student-distill", "--teacher", root / "teacher", "--out", root / "student", *QUICK)
    search = ["--metric", "sisdr", "--nfe", "2", "--limit", "2", "--iterations", "1"]
    do("os3-search", "--student", root / "student", *search)
    kind = ["--objective", "regression", "--out", root / "regression"]
    do("teacher-train", *kind, *rate, *SMALL, *QUICK)
    do("student-finish", "--student", root / "student", "--out", root / "finished", *QUICK)
    return root


def test_the_folder_says_how_it_was_finished(work: Path) -> None:
    before, config = load_config(work / "student"), load_config(work / "finished")
    assert config["role"] == "student" and config["task"]["temperature"] == 0.0
    assert config["schedule"] == [0.0, 1.0]
    assert config["schedules"] == {"2": before["schedules"]["2"]}
    assert config["objective"]["name"] == "finish" and config["objective"]["log_mel"] == 1.0
    assert config["parent"]["teacher"] == str(work / "teacher")
    assert config["parent"]["start"] == "student" and config["data"] == before["data"]
    lines = [json.loads(line) for line in (work / "finished/log.jsonl").read_text().splitlines()]
    (valid,) = [line for line in lines if line["kind"] == "valid"]
    assert {"loss", "sisdr_1", "sisdr_2"} <= set(valid)
    assert not all(
        torch.equal(value, load_tensors(work / "student")[key])
        for key, value in load_tensors(work / "finished").items()
    )


def test_commands_take_a_finished_student(work: Path) -> None:
    source = work / "in.wav"
    soundfile.write(source, voice(3), 8000)
    for seed in (0, 1):
        do("restore", work / "finished", source, work / f"out{seed}.wav", "--seed", seed)
    # at temperature 0 no noise is left
    assert (work / "out0.wav").read_bytes() == (work / "out1.wav").read_bytes()
    options = ["--metrics", "sisdr", "--limit", "2", "--audio", "0", "--teacher-nfe", "1"]
    do("evaluate", "--student", work / "finished", "--out", work / "evaluation", *options)
    rows = json.loads((work / "evaluation" / "evaluation.json").read_text())
    assert {row["model"] for row in rows} == {"unprocessed", "teacher", "student"}
    search = ["--metric", "sisdr", "--nfe", "2", "--limit", "2", "--iterations", "1"]
    do("os3-search", "--student", work / "finished", *search)
    do("info", work / "finished")


def test_a_stopped_run_goes_on_to_the_same_bits(work: Path) -> None:
    config = str(work / "finished" / "config.json")
    command = ["student-finish", "--config", config, "--out", work / "again", "--valid-files", "0"]
    do(*command, "--time-limit-hours", "1e-9")
    assert load_config(work / "again")["training"]["step"] == 1
    do(*command, "--resume")
    one, two = load_tensors(work / "finished"), load_tensors(work / "again")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_regression_network_is_a_student_of_one_step(work: Path) -> None:
    path = str(work / "regression")
    student, _ = opened(parse(["student-finish", "--regression", path]))
    network, task, _ = load_network(path, "regression")
    clean = torch.from_numpy(voice(5))[None]
    cond = task.condition(clean)
    z_0 = student.task.path.prior(cond, torch.randn_like(cond["y"]))  # type: ignore[union-attr]
    assert torch.equal(sample(student, z_0, cond, 1), estimate(network, task.path, cond).detach())


def test_keep_is_a_share_of_the_weights(work: Path) -> None:
    start = ["student-finish", "--student", str(work / "student")]
    weights = {}
    for keep in ("0", "0.25", "1"):
        student, _ = opened(parse([*start, "--keep", keep]))
        weights[keep] = dict(student.state_dict())
        assert student.parent["keep"] == float(keep)
    assert weights["0.25"].keys() == weights["1"].keys()
    for key, value in weights["0.25"].items():
        torch.testing.assert_close(value, 0.25 * weights["1"][key] + 0.75 * weights["0"][key])
    nothing, _ = opened(parse([*start, "--random"]))
    assert all(torch.equal(value, weights["0"][key]) for key, value in nothing.state_dict().items())
    assert main([*start, "--keep", "1.5", "--out", str(work / "no")]) == 2
    assert main([*start, "--keep", "0.5", "--random", "--out", str(work / "no")]) == 2


def test_a_run_from_before_keep_is_repeated_as_it_was(work: Path) -> None:
    config = json.loads((work / "finished" / "config.json").read_text())
    assert config["command"]["options"].pop("keep", "none") is None
    old = work / "old.json"
    old.write_text(json.dumps({**config, "sha256": None}))
    now, before = (
        opened(parse(["student-finish", "--config", str(file)]))[0].parent["keep"]
        for file in (work / "finished" / "config.json", old)
    )
    assert (now, before) == (0.5, 1.0)


@pytest.mark.parametrize("interval", ["mixed", "delta", "unit"])
def test_every_embedding_of_times_is_kept(work: Path, interval: str) -> None:
    out = work / f"student-{interval}"
    more = ["--interval", interval, "--steps", "1", "--valid-files", "0"]
    do("student-distill", "--teacher", work / "teacher", "--out", out, *QUICK, *more)
    start = ["student-finish", "--student", str(out)]
    (whole, _), (half, _) = (opened(parse([*start, "--keep", keep])) for keep in ("1", "0.5"))
    assert half.interval == interval
    assert [(n, v.shape) for n, v in half.state_dict().items()] == [
        (n, v.shape) for n, v in whole.state_dict().items()
    ]


@pytest.mark.parametrize(
    "options, keep",
    [
        (["--student", "student"], 0.5),
        (["--teacher", "teacher"], 0.5),
        (["--regression", "regression"], 1.0),  # knew no noise
        (["--student", "finished"], 1.0),  # does without it already
        (["--student", "student", "--temperature", "0.5"], 1.0),
        (["--student", "student", "--critic.weight", "0.1"], 1.0),
        (["--student", "student", "--anchor", "0.1"], 1.0),
        (["--student", "student", "--dmd.weight", "0.1"], 1.0),
        (["--student", "student", "--keep", "0.75"], 0.75),
    ],
)
def test_what_is_kept_by_default(work: Path, options: list[str], keep: float) -> None:
    role, name, *more = options
    student, _ = opened(parse(["student-finish", role, str(work / name), *more]))
    assert student.parent["keep"] == keep


def test_other_starts(work: Path) -> None:
    quick = [*QUICK, "--steps", "1", "--valid-files", "0"]
    for name, options in {
        "from-teacher": ["--teacher", work / "teacher"],
        "from-regression": ["--regression", work / "regression"],
        "from-nothing": ["--student", work / "student", "--random"],
        "matched": [
            *("--student", work / "student", "--temperature", "1"),
            *("--dmd.weight", "0.1", "--dmd.warmup", "0"),
        ],
        "with-critics": ["--student", work / "student", "--critic.weight", "0.1"],
        "anchored": ["--student", work / "student", "--anchor", "0.1", "--temperature", "0.5"],
    }.items():
        do("student-finish", *options, "--out", work / name, *quick)
        load_student(work / name)
    log = (work / "from-nothing" / "log.jsonl").read_text().splitlines()
    (line,) = [line for line in map(json.loads, log) if line["kind"] == "train"]
    assert line["grad_norm"] > 1e-3, "a network that answers silence never learns from magnitudes"
    config = load_config(work / "from-teacher")
    assert config["parent"]["start"] == "teacher"
    assert config["parent"]["teacher"] == str(work / "teacher")
    assert load_config(work / "anchored")["task"]["temperature"] == 0.5
    for options in (
        [],
        ["--student", work / "student", "--regression", work / "regression"],
        ["--regression", work / "regression", "--anchor", "1"],
        ["--student", work / "student", "--mel", "1"],
    ):
        assert main([str(word) for word in ["student-finish", *options, "--out", work / "x"]]) == 2
    config = str(work / "finished" / "config.json")
    assert main(["student-distill", "--config", config, "--out", str(work / "x")]) == 2
    config = str(work / "student" / "config.json")
    assert main(["student-finish", "--config", config, "--out", str(work / "x")]) == 2


def test_enhancement_and_streams(work: Path) -> None:
    """A causal student that is finished streams as any other."""
    corpus = ["--data", work / "corpus", "--data.crop-s", "0.5"]
    kind = ["--task", "enhance", "--sample-rate", "8000", "--causal"]
    do("teacher-train", *kind, "--out", work / "causal", *corpus, *SMALL, *QUICK)
    quick = [*QUICK, "--valid-files", "0", "--nfe", "1", "--temperature", "0.3"]
    do("student-finish", "--teacher", work / "causal", "--out", work / "causal-finished", *quick)
    source = work / "noisy.wav"
    soundfile.write(source, voice(4), 8000)
    do("stream", source, work / "streamed.wav", "--student", work / "causal-finished")
    do("stream", "--verify", work / "causal-finished")
