"""The originals' answers on tiny random weights, made by ``benchmarks/peers/NAME.py --write``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfdistill.flow import schedule, solve
from mfdistill.teachers import load_teacher

DATA = Path(__file__).parent / "data"


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        sizes = file.metadata()
    return load_file(DATA / f"{name}.safetensors"), sizes


def off(ours: Tensor, theirs: Tensor, keep: Tensor | float = 1.0) -> float:
    return float(((ours - theirs) * keep).norm() / (theirs * keep).norm())


@pytest.mark.parametrize("joined", ["concat", "add", "none"])
def test_unett_is_f5_tts_own(tmp_path: Path, joined: str) -> None:
    found, sizes = golden("f5_unett")
    prefix = f"{joined}.weight."
    weights = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    file = tmp_path / "model.safetensors"
    save_file({f"ema_model.transformer.{k}": v for k, v in weights.items()}, file)
    teacher = load_teacher(file, config=json.loads(sizes[joined]))
    assert teacher.config["kind"] == "f5-unett"  # found from the file
    for what in ("padded", "whole"):
        cond = {"cond": found["cond"], "text": found["text"]}
        cond |= {"mask": found["mask"]} if what == "padded" else {}
        for strength in (0, 2):
            teacher.guidance_strength = float(strength)
            ours = teacher.velocity(found["z"], torch.tensor(0.25), cond)
            assert off(ours, found[f"{joined}.answer.{what}_{strength}"]) < 1e-5


@pytest.mark.parametrize("speakers", [1, 2])
def test_matchas_decoder_is_the_original(tmp_path: Path, speakers: int) -> None:
    found, sizes = golden("matcha")
    prefix = f"{speakers}.weight."
    state: dict[str, Any] = {
        f"decoder.{k.removeprefix(prefix)}": v for k, v in found.items() if k.startswith(prefix)
    }
    torch.save({"state_dict": state}, tmp_path / "matcha.ckpt")
    teacher = load_teacher(tmp_path / "matcha.ckpt", config=json.loads(sizes["sizes"]))
    z, mask = found["z"], found["mask"]
    cond = {"mu": found["mu"], "mask": mask} | ({"spks": found["spks"]} if speakers > 1 else {})
    ours = teacher.velocity(z, torch.tensor(0.25), cond)
    assert off(ours, found[f"{speakers}.answer.velocity"], mask) < 1e-5
    ours = solve(lambda x, t: teacher.velocity(x, t, cond), z, schedule(4), "euler")
    assert off(ours, found[f"{speakers}.answer.sampler_4"], mask) < 1e-5
