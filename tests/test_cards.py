"""Cards and pages of model folders: made anew whenever what they tell of changes, and their
commands run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cli_corpus import QUICK, SMALL, make_corpus, voice

from mfdistill.checkpoint import load_config, write_config
from mfdistill.cli import main
from mfdistill.commands.results import evaluations
from mfdistill.errors import UserError

EVALUATE = ["--metrics", "sisdr", "--teacher-nfe", "1", "--limit", "2", "--audio", "0"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal enhancer's teacher and student."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("cards")
    data = ["--data", str(make_corpus(root / "corpus")), "--data.crop-s", "0.5"]
    task = ["--task", "enhance", "--causal", "--sample-rate", "8000"]
    teacher, student = str(root / "teacher"), str(root / "student")
    assert main(["teacher-train", "--out", teacher, *task, *data, *SMALL, *QUICK]) == 0
    assert main(["student-distill", "--teacher", teacher, "--out", student, *QUICK]) == 0
    return root


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_card_and_page_follow_what_the_folder_holds(work: Path) -> None:
    student = work / "student"
    assert "Not evaluated yet" in card(student) and (student / "report.html").is_file()
    for part in (
        "| Data | ",
        "| Made by | mfdistill ",
        f"--config {student}/config.json",
        "ms with a hop",
    ):
        assert part in card(student)  # fmt: skip
    search = ["os3-search", "--student", str(student), "--metric", "sisdr", "--nfe", "2", "--limit", "2"]  # fmt: skip
    assert main([*search, "--iterations", "1"]) == 0
    assert "## Schedules" in card(student) and "Not evaluated yet" in card(student)
    out = work / "evaluation"
    assert main(["evaluate", "--student", str(student), "--out", str(out), *EVALUATE]) == 0
    rows = json.loads((out / "evaluation.json").read_text())
    value = f"{rows[-1]['sisdr']:.2f}"
    for folder in (student, work / "teacher"):
        assert value in card(folder) and "Not evaluated" not in card(folder)
        assert value in (folder / "report.html").read_text()
    # a later search takes away the row of the schedule that it replaced, and no other
    config = load_config(student)
    write_config(student, config | {"schedules": {"2": [0, 0.1, 1]}})
    (entry,) = evaluations(student)
    assert entry["dropped"] == 1 and len(entry["rows"]) == len(rows) - 1
    write_config(student, config)
    # an evaluation of other weights is none of these
    file = student / "model.safetensors"
    held = file.read_bytes()
    file.write_bytes(held + b" ")
    assert evaluations(student) == []
    file.write_bytes(held)
    assert len(evaluations(student)) == 1
    # the same data and split again: in the place of the first, another split beside it
    assert main(["evaluate", "--student", str(student), "--out", str(out), *EVALUATE]) == 0
    again = ["evaluate", "--student", str(student), "--out", str(out), *EVALUATE, "--split", "valid"]  # fmt: skip
    assert main(again) == 0
    assert [entry["split"] for entry in evaluations(student)] == ["test", "valid"]


def test_damaged_results_are_told(work: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON.*; delete it"):
        evaluations(tmp_path)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_use_runs_as_it_stands(work: Path, role: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noisy.wav", voice(3), 8000)
    use = card(work / role).split("## Use")[1].split("## Licence")[0]
    (shell,) = re.findall(r"```sh\n(.*?)```", use, re.S)
    (code,) = re.findall(r"```python\n(.*?)```", use, re.S)
    here = Path(__file__).resolve().parents[1]
    environment = {"PYTHONPATH": str(here), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    for line in shell.strip().splitlines():
        words = [sys.executable, "-m", *line.split()]
        subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    from_shell, from_python = (
        soundfile.read(tmp_path / name)[0] for name in ("restored.wav", "from_python.wav")
    )
    assert np.abs(from_shell).max() > 0
    assert np.allclose(from_shell, from_python, atol=1e-4)  # 16 bit
    assert soundfile.info(tmp_path / "streamed.wav").frames > 0
