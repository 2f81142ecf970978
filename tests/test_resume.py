"""Runs hold the command that made them: repeated, continued from the folder alone, extended; and
models of earlier versions still load.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_corpus import QUICK, SMALL, make_corpus

from mfdistill.checkpoint import load_tensors
from mfdistill.cli import main
from mfdistill.commands.parsing import parse
from mfdistill.commands.saved import name_of, recorded, saved_command
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.table import TRAINED
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.distill.opening import open_model
from mfdistill.distill.run import _with_new_fields, _with_new_names
from mfdistill.distill.settings import TrainConfig
from mfdistill.distill.state import first_difference
from mfdistill.distill.synthesis import synthesise
from mfdistill.errors import UserError
from mfdistill.networks import build_network

MODELS = Path(__file__).resolve().parents[1] / "benchmarks" / "models"


def steps_of(folder: Path) -> tuple[int, int]:
    training = json.loads((folder / "config.json").read_text())["training"]
    return training["step"], training["steps"]


def test_commands_come_back_as_they_were() -> None:
    given = parse(
        [
            "student-distill", "--teacher", "t", "--objective", "meanflow", "--meanflow.p-full", "0.25", "--nfe", "2",
            "--guidance.range", "0.5", "2", "--betas", "0.8", "0.9", "--data", "d", "--valid-nfe", "1", "3", "--epochs", "2",
        ]
    )  # fmt: skip
    config = json.loads(json.dumps(recorded(given)))
    assert saved_command(config, StudentDistill, "run") == given
    assert [name_of(cls) for cls in TRAINED][:2] == ["teacher-train", "student-distill"]
    with pytest.raises(UserError, match="made by student-distill, not by teacher-train"):
        saved_command(config, TeacherTrain, "run")
    config["command"]["options"]["nfee"] = 3
    with pytest.raises(UserError, match="unknown key 'nfee'; did you mean 'nfe'"):
        saved_command(config, StudentDistill, "run")


def test_a_run_is_continued_and_extended_from_its_folder(tmp_path: Path) -> None:
    data, run, whole = str(make_corpus(tmp_path / "corpus")), tmp_path / "run", tmp_path / "whole"
    options = [
        "teacher-train", "--task", "vocode", "--sample-rate", "8000", "--data", data, "--data.crop-s", "0.5", *SMALL, *QUICK,
        "--valid-files", "0", "--num-workers", "0", "--lr-schedule", "constant",
    ]  # fmt: skip
    assert main([*options, "--out", str(run)]) == 0
    assert main(["resume", str(run)]) == 0 and steps_of(run) == (3, 3)
    assert main(["resume", str(run), "--steps", "2"]) == 2
    assert main(["resume", str(run), "--steps", "5"]) == 0 and steps_of(run) == (5, 5)
    # the curve being constant, it is the run of five updates, bit for bit
    assert main([*options, "--steps", "5", "--out", str(whole)]) == 0
    extended, straight = (load_tensors(folder) for folder in (run, whole))
    assert all(torch.equal(extended[name], straight[name]) for name in straight)
    again = parse(["teacher-train", "--config", str(run / "config.json"), "--out", "elsewhere"])
    assert again.training.out == "elsewhere" and again.training.steps == 5
    assert not again.training.resume and not again.training.extend


def test_what_cannot_be_resumed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["resume", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["resume", str(MODELS / "vocode-student")]) == 2
    assert "no training_state" in capsys.readouterr().err
    config = str(MODELS / "vocode-student" / "config.json")
    with pytest.raises(UserError, match="did not keep the command"):
        parse(["student-distill", "--config", config])


@pytest.mark.parametrize("folder", sorted(path.name for path in MODELS.iterdir() if path.is_dir()))
def test_models_of_earlier_versions_load(folder: str) -> None:
    model = open_model(MODELS / folder)
    if not model.task.restores:  # it speaks, with the vocoder that lies beside it
        prompt = 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(0))
        assert model.task.vocoder is not None
        if model.task.needs_text:
            made = synthesise(model, prompt, text="The king.", prompt_text="Good morning.").wave
        else:  # noise is no voice to speak in, but has units
            cond = model.task.condition(prompt[None])
            made = model.endpoint(torch.zeros_like(cond["y"]), cond, 1)
        assert bool(made.isfinite().all())
        return
    z = torch.zeros(1, 2, model.task.config.stft.bins, 8)
    with torch.no_grad():
        z_1 = model.endpoint(z, {"y": z + 0.1}, 1)
    assert z_1.shape == z.shape and bool(z_1.isfinite().all())


def test_a_network_of_an_earlier_version_has_todays_names() -> None:
    """Folders hold the field ``matcha`` that is called ``soft_mask`` now."""
    network = build_network("matcha_unet", {"channels": [8], "matcha": True, "causal": False})
    assert network.config.soft_mask  # type: ignore[union-attr]
    sizes = {"channels": [8], "matcha": True}
    renamed = {"channels": [8], "soft_mask": True}
    before, now = ({"network": {"name": "matcha_unet", "config": c}} for c in (sizes, renamed))
    assert _with_new_names(before) == now == _with_new_names(now)
    assert _with_new_names({"network": None, "training": {}}) == {"network": None, "training": {}}


def test_a_run_of_an_earlier_version_goes_on_where_settings_came_since(tmp_path: Path) -> None:
    old = {
        "objective": {"name": "integral", "substeps": 8},
        "training": {"steps": 5, "lr": 0.1},
        "task": {"name": "vocode"},
    }
    now = {
        "objective": {"name": "integral", "substeps": 8, "teacher_rows": 0, "unheard": 1},
        "training": {"steps": 5, "lr": 0.1, "warmup": TrainConfig().warmup},
        "task": {"name": "vocode", "temperature": 1.0},
    }
    filled = _with_new_fields(old, now)
    assert first_difference(filled, now) == ("objective.unheard", None, 1)
    changed = {**now, "task": {"name": "vocode", "temperature": 0.5}}
    assert first_difference(_with_new_fields(old, changed), changed) is not None
    own = {"objective": {"name": "of an extension"}, "task": None, "training": {}}
    assert _with_new_fields(own, own) == own
