"""A teacher whose matrices are held in half precision: what it answers, and a run that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_tts import F5, f5_file, sizes_file, speech
from torch import nn

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.cli import main
from mfdistill.distill.objectives.base import teacher_velocity
from mfdistill.networks.half import hold_in_bf16, is_held_in_bf16
from mfdistill.teachers import load_teacher

QUICK = ["--batch-size", "3", "--warmup", "0", "--valid-files", "1", "--num-workers", "0"]


def test_matrices_are_rounded_and_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GRU(4, 4), nn.Conv1d(4, 4, 3))
    weight = module[0].weight.detach().clone()
    assert not is_held_in_bf16(module) and hold_in_bf16(module) is module
    assert is_held_in_bf16(module)
    assert torch.equal(module[0].weight, weight.bfloat16())
    kept = (module[0].bias, *module[1].parameters(), *module[2].parameters(), module[3].bias)
    assert all(value.dtype == torch.float32 for value in kept)
    assert module[3].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_its_velocity_is_the_teachers_to_a_percent(tmp_path: Path, guidance: float) -> None:
    file = f5_file(tmp_path / "ckpt")
    sizes = json.loads(sizes_file(tmp_path, F5).read_text())
    exact, held = (load_teacher(file, "f5", config=sizes) for _ in range(2))
    hold_in_bf16(held.network)
    z, cond = exact.network.request(2, 16)  # type: ignore[operator]
    z, t = torch.randn(z.shape), torch.tensor([0.1, 0.7])
    for teacher in (exact, held):
        teacher.guide_by(guidance)
    wanted, found = (teacher_velocity(teacher, z, t, cond) for teacher in (exact, held))
    assert found.dtype == torch.float32
    assert 1e-5 < (found - wanted).norm() / wanted.norm() < 0.02


def test_a_run_and_its_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = speech(tmp_path / "data")
    words = ["student-distill", "--teacher", str(f5_file(tmp_path / "ckpt")),
             "--sizes", str(sizes_file(tmp_path, F5)), "--data", str(data), "--tts.min-s", "0.1",
             "--steps", "2", "--integral.teacher-precision", "bf16",
             "--integral.teacher-rows", "1", *QUICK]  # fmt: skip
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main([*words, "--out", str(whole)]) == 0
    assert main([*words, "--out", str(halves), "--time-limit-hours", "1e-9"]) == 0
    assert main([*words, "--out", str(halves), "--resume"]) == 0
    one, two = load_tensors(whole), load_tensors(halves)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(value.dtype == torch.float32 for value in one.values())
    assert load_config(whole)["objective"]["teacher_rows"] == 1
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "x"), "--lora.rank", "2"]) == 2
    assert "take 'run'" in capsys.readouterr().err
