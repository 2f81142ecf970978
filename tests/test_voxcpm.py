"""VoxCPM's flow head: the original's answers on tiny random weights
(``benchmarks/peers/voxcpm.py --write``), its files, and the ordinary commands on them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfdistill.cli import main
from mfdistill.data.tts import TTSSet
from mfdistill.data.tts_config import TTSOptions
from mfdistill.errors import UserError
from mfdistill.flow import solve
from mfdistill.students import Student, load_student
from mfdistill.systems.voxcpm import export_voxcpm, voxcpm_times
from mfdistill.teachers import load_teacher

GOLDEN = Path(__file__).parent / "data" / "voxcpm.safetensors"
NAMES = ("voxcpm", "voxcpm2")


def checkpoint(root: Path, name: str = "voxcpm", **changes: object) -> Path:
    """``model.safetensors`` beside its ``config.json``."""
    root.mkdir(parents=True)
    found, prefix = load_file(GOLDEN), f"{name}.weight."
    weights = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    save_file(weights, root / "model.safetensors")
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()[name])
    (root / "config.json").write_text(json.dumps(config | changes))
    return root / "model.safetensors"


def inputs(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    found = load_file(GOLDEN)
    return found[f"{name}.z"], {key: found[f"{name}.{key}"] for key in ("mu", "cond")}


def off(ours: Tensor, name: str, what: str) -> float:
    theirs = load_file(GOLDEN)[f"{name}.answer.{what}"]
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_is_the_original(tmp_path: Path, name: str) -> None:
    teacher, (z, cond) = load_teacher(checkpoint(tmp_path / "t", name)), inputs(name)
    assert teacher.guidance_strength == 1.0 and teacher.task.config.frames_per_mu in (2, 4)
    for rule in ("cfg", "zero-star"):
        teacher.guidance_rule = rule
        ours = solve(lambda x, t: teacher.velocity(x, t, cond), z, voxcpm_times(4), "euler")
        assert off(ours, name, f"sampler_4_{rule}") < 1e-5
    teacher.guidance_strength = 0.0
    for t in (0.25, 0.75):
        assert off(teacher.velocity(z, torch.tensor(t), cond), name, f"velocity_{t}") < 1e-5


def test_patches_are_made_by_themselves(tmp_path: Path) -> None:
    teacher, (z, cond) = load_teacher(checkpoint(tmp_path / "t")), inputs("voxcpm")
    whole = teacher.velocity(z, torch.tensor(0.3), cond)
    last = {key: value[..., -2:] for key, value in cond.items()}
    assert torch.allclose(whole[..., -2:], teacher.velocity(z[..., -2:], torch.tensor(0.3), last), atol=1e-6)  # fmt: skip
    x = torch.arange(12.0).reshape(1, 2, 6)
    shown = teacher.task.shown(x, torch.zeros(1))
    assert torch.equal(shown[..., 2:], x[..., :4]) and not shown[..., :2].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_student_begins_as_its_teacher_and_is_the_originals_file(
    tmp_path: Path, name: str
) -> None:
    file, (z, cond) = checkpoint(tmp_path / "t", name), inputs(name)
    teacher = load_teacher(file, guidance_strength=0.0)
    student = Student.from_teacher(teacher, 2, interval="delta").eval()
    t, r = torch.tensor(0.25), torch.tensor(0.75)
    assert torch.equal(student(z, t, r, cond), teacher.velocity(z, t, cond))
    with torch.no_grad():
        student.network.time.delta_time_mlp.linear_2.weight.normal_()
    made = export_voxcpm(student, tmp_path / "s.safetensors", file)
    assert set(load_file(made)) == set(load_file(file))
    with pytest.raises(UserError, match="is a teacher"):
        load_student(file, kind="voxcpm")
    place = checkpoint(tmp_path / "s", name, dit_mean_mode=True)
    save_file(load_file(made), place)
    again = load_student(place, kind="voxcpm")
    assert torch.equal(again(z, t, r, cond), student(z, t, r, cond))
    assert not torch.allclose(again(z, t, r, cond), again(z, t, t, cond), atol=1e-2)
    with pytest.raises(UserError, match="is a student"):
        load_teacher(place)
    with pytest.raises(UserError, match="interval is not 'delta'"):
        export_voxcpm(Student.from_teacher(teacher, 1), tmp_path / "x.safetensors")


def latents(root: Path, hidden: int = 16) -> Path:
    root.mkdir()
    rng = torch.Generator().manual_seed(0)
    for number, patches in enumerate((9, 12, 15, 11)):
        made = {
            "mel": torch.randn(6, 2 * patches + number % 2, generator=rng),
            "mu": torch.randn(hidden, patches, generator=rng),
        }
        save_file(made, root / f"take{number}.safetensors")
    return root


def test_batches_are_whole_patches_with_the_one_before(tmp_path: Path) -> None:
    task = load_teacher(checkpoint(tmp_path / "t")).task
    data = TTSSet(str(latents(tmp_path / "data")), TTSOptions(min_s=0), task)
    assert all(length % 2 == 0 for length in data.lengths)
    batch = task.batch(data.group(0, 2), "cpu")
    x, cond = batch["z_1"], batch["cond"]
    assert torch.equal(cond["cond"][..., 2:], x[..., :-2])
    assert torch.equal(cond["mu"][..., ::2], cond["mu"][..., 1::2])
    assert cond["mu"].shape[1:] == (16, x.shape[2])
    (tmp_path / "data" / "take9.safetensors").write_bytes(
        (tmp_path / "data" / "take0.safetensors").read_bytes()
    )
    save_file({"mu": torch.zeros(16, 4)}, tmp_path / "data" / "take9.safetensors")
    with pytest.raises(UserError, match="it needs mel and mu"):
        TTSSet(str(tmp_path / "data"), TTSOptions(min_s=0), task)


def test_the_ordinary_commands_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data, run = checkpoint(tmp_path / "t"), latents(tmp_path / "data"), str(tmp_path / "run")
    assert main(["info", str(file)]) == 0
    assert "features mu" in capsys.readouterr().out
    assert main(["teacher-import", str(file), str(tmp_path / "own")]) == 0
    options = ["--interval", "delta", "--steps", "2", "--batch-size", "2", "--valid-every", "2", "--valid-files", "1"]  # fmt: skip
    assert main(["student-distill", "--teacher", str(tmp_path / "own"), "--data", str(data), *options,
                 "--tts.min-s", "0", "--out", run]) == 0  # fmt: skip
    assert main(["export", run, str(tmp_path / "model.safetensors"), "--layout", "voxcpm", "--base", str(file)]) == 0  # fmt: skip
    assert "base_lm.norm.weight" in load_file(tmp_path / "model.safetensors")
    search = ["os3-search", "--student", run, "--data", str(data), "--nfe", "2", "--limit", "1"]
    assert (
        main([*search, "--metric", "teacher-mse", "--iterations", "1", "--teacher-steps", "2"]) == 0
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["interval"] == "delta" and config["task"]["frames_per_mu"] == 2
