"""student-finish of text-to-speech flows of other systems, on tiny ones with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_tts import COSY, F5, cosyvoice_file, f5_file, sizes_file, speech

from mfdistill.cli import main
from mfdistill.data.config import DataConfig
from mfdistill.data.open import open_task_train
from mfdistill.data.tts_config import TTSOptions
from mfdistill.distill.batch import make_batch
from mfdistill.distill.equip import equip
from mfdistill.distill.finishing.config import FinishConfig
from mfdistill.distill.objectives import FinishObjective
from mfdistill.flow import noise
from mfdistill.students import load_student, sample

QUICK = "--batch-size 3 --warmup 0 --log-every 1 --valid-files 1 --num-workers 0".split()


@pytest.fixture(scope="module")
def f5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of speech and of a student of F5-TTS's kind, distilled for an update."""
    root = tmp_path_factory.mktemp("f5")
    file, data = f5_file(root / "ckpt"), speech(root / "data")
    sizes = str(sizes_file(root, F5))
    words = ["student-distill", "--teacher", str(file), "--sizes", sizes, "--data", str(data)]
    words += ["--out", str(root / "student"), "--steps", "1", "--tts.min-s", "0.1", *QUICK]
    assert main(words) == 0
    return data, root / "student"


def test_the_loss_is_the_distance_of_what_the_sampler_reaches(f5: tuple[Path, Path]) -> None:
    data, folder = f5
    student = load_student(folder)
    assert student.task is not None
    task = student.task.at_temperature(0.5)
    options = TTSOptions(min_s=0.1)
    equip(task, student.network, folder, "cpu", options)
    rows = open_task_train(DataConfig(source=str(data)), task, options)
    batch = make_batch(task, rows.group(0, 3), "cpu")  # type: ignore[union-attr]
    objective = FinishObjective(
        student, task, {2: [0.0, 0.3, 1.0]}, FinishConfig(nfe=(2,), mel=2.0), seed=3
    )
    loss, logs = objective(batch)
    x, mask = batch["z_1"], batch["loss_mask"]
    eps = noise(3, batch["index"], "noise", x.shape[1:])
    z_0 = 0.5 * eps * 2**0.5
    if "mask" in batch["cond"]:
        z_0 = z_0 * batch["cond"]["mask"][..., None]
    z_1 = sample(student, z_0, batch["cond"], [0.0, 0.3, 1.0])
    error = ((z_1 - x).abs() * mask).flatten(1).sum(1) / (mask.expand_as(x).flatten(1).sum(1))
    # samples weigh by their frames that count
    frames = mask.flatten(1).sum(1)
    wanted = (error * frames).sum() / frames.sum()
    assert logs["mel"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert loss.item() == pytest.approx(2 * wanted.item(), rel=1e-5)


def test_a_student_of_f5_comes_nearer_to_the_recordings(f5: tuple[Path, Path]) -> None:
    data, folder = f5
    out = folder.with_name("finished")
    words = ["student-finish", "--student", str(folder), *QUICK, "--lr", "3e-3"]
    assert main([*words, "--steps", "8", "--out", str(out)]) == 0
    saved = json.loads((out / "config.json").read_text())
    # the prior's spread is the start's own, and so are data, texts and teacher
    assert saved["task"]["temperature"] == saved["objective"]["temperature"] == 1.0
    assert saved["objective"]["mel"] == 1.0 and saved["data"]["source"] == str(data)
    assert saved["tts"]["min_s"] == 0.1 and (out / "vocab.txt").is_file()
    before = json.loads((folder / "config.json").read_text())["parent"]
    assert {key: saved["parent"][key] for key in ("teacher", "sizes")} == {
        key: before[key] for key in ("teacher", "sizes")
    }
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [row["mel"] for row in log if "mel" in row]
    assert losses[-1] < 0.7 * losses[0]
    # a finished one is a student like any other
    search = ["os3-search", "--student", str(out), "--nfe", "2", "--metric", "teacher-mse"]
    assert main([*search, "--limit", "1", "--iterations", "1"]) == 0
    repeat = ["student-finish", "--config", str(out / "config.json"), "--out", str(out) + "2"]
    assert main([*repeat, "--steps", "1"]) == 0


def test_distribution_matching_needs_no_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data = cosyvoice_file(tmp_path / "ckpt"), speech(tmp_path / "data", features="tokens")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    sizes = str(sizes_file(tmp_path, COSY))
    assert main(["teacher-import", str(file), str(teacher), "--sizes", sizes]) == 0
    words = ["--teacher", str(teacher), "--data", str(data), "--tts.min-s", "0.1"]
    words += ["--tts.data-free", *QUICK]
    assert main(["student-distill", *words, "--out", str(student), "--steps", "1"]) == 0
    finish = ["student-finish", "--student", str(student), "--out", str(tmp_path / "out"), *QUICK]
    finish += ["--steps", "3", "--nfe", "1"]
    capsys.readouterr()
    assert main(finish) == 2
    assert "--mel 0" in capsys.readouterr().err
    assert main([*finish, "--critic.weight", "1", "--mel", "0"]) == 2
    assert "--dmd.weight" in capsys.readouterr().err
    assert main([*finish, "--anchor", "1", "--mel", "0"]) == 2
    assert "--anchor" in capsys.readouterr().err
    matched = ["--mel", "0", "--dmd.weight", "1", "--dmd.warmup", "1", "--lr", "1e-3"]
    assert main([*finish, *matched]) == 0
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [("dmd" in row) for row in log if "fake" in row] == [False, True, True]
    before, after = (load_student(folder) for folder in (student, tmp_path / "out"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]  # fmt: skip
    assert any(moved)
