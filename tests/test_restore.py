"""Restoring by blocks gives what restoring at once gives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.checkpoint import save_folder
from mfdistill.cli import main
from mfdistill.commands.restore import Restore
from mfdistill.commands.restoring import restore_file
from mfdistill.config import to_dict
from mfdistill.distill.inference import endpoint
from mfdistill.distill.opening import Model
from mfdistill.networks import CompactConfig, build_network
from mfdistill.parts import part_of
from mfdistill.tasks import default_task, get_task


@dataclass
class _Files:
    source: Path
    target: Path


@pytest.fixture
def files(tmp_path: Path) -> _Files:
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal((8 * 8000, 2)) * np.linspace(0.2, 1, 8 * 8000)[:, None]
    soundfile.write(tmp_path / "in.wav", wave, 8000, subtype="FLOAT")
    return _Files(tmp_path / "in.wav", tmp_path / "out.wav")


def vocoder() -> Model:
    torch.manual_seed(0)
    task = get_task(default_task("vocode", 8000))
    config = CompactConfig(
        channels=4,
        blocks=1,
        freqs=128,
        embedding=8,
        sigma_0=1.0,
        mean="zero",
        shape="magnitude",
        dilations=(1,),
    )
    network = build_network("compact", config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Model("teacher", task, network, endpoint("teacher", network, task), {})


@pytest.mark.parametrize("overlap_s", [0.5, 1.0])
def test_blocks_equal_the_whole_file_between_the_seams(files: _Files, overlap_s: float) -> None:
    """Level, noise and framing of a block are those of the whole file; only its first and last
    frames see an edge that is not there.
    """
    model, results = vocoder(), []
    for block_s in (30.0, 3.0):
        command = Restore(model="", source="", target="", block_s=block_s, overlap_s=overlap_s)
        restore_file(model, files.source, files.target, 2, command, lambda name, seconds: None)
        results.append(soundfile.read(files.target, dtype="float32")[0])
    whole, blocks = results
    step = round((3.0 - overlap_s) / 0.016) * 128
    seam = np.zeros(len(whole), bool)
    for start in range(step, len(whole), step):
        seam[start : start + 24000 - step] = True
    assert not seam.all()
    np.testing.assert_allclose(blocks[~seam], whole[~seam], atol=1e-5)
    difference = np.sqrt(((blocks - whole)[seam] ** 2).mean() / (whole[seam] ** 2).mean())
    # fading between two different draws of the phase would make it about 0.6
    assert difference < 0.1


def test_a_folder_made_with_other_settings_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = vocoder()
    stats = {"role": "teacher", "task": to_dict(model.task.config)}
    sizes = {"name": "compact", "config": to_dict(model.module.config)}
    for name in ("model", "other"):
        save_folder(tmp_path / name, model.module.state_dict(), {**stats, "network": sizes})
    with torch.no_grad():
        next(model.module.parameters()).add_(1)
    save_folder(tmp_path / "other", model.module.state_dict(), {**stats, "network": sizes})
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in range(2):
        soundfile.write(source / f"{k}.wav", 0.1 * np.ones(4000), 8000)
    # what a killed process left, and one of a process that lives
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = part_of(target / "another.wav")
    gone = left.with_name(left.name.replace(f"-{os.getpid()}.", f"-{dead.pid}."))
    target.mkdir()
    for file in (left, gone):
        file.write_bytes(b"x")
    words = ["restore", str(tmp_path / "model"), str(source), str(target), "--nfe", "2"]
    assert main(words) == 0
    assert left.exists() and not gone.exists()
    left.unlink()
    (target / "1.wav").unlink()
    assert main([*words, "--batch", "2"]) == 0  # goes on
    told = capfd.readouterr().err
    assert "1 were there already" in told
    assert main([*words[:-1], "1"]) == 2
    assert "made with --nfe 2, now 1; add --overwrite" in capfd.readouterr().err
    assert main([words[0], str(tmp_path / "other"), *words[2:]]) == 2
    assert "made with another model" in capfd.readouterr().err
    assert main([*words[:-1], "1", "--overwrite"]) == 0
    assert main([*words[:-1], "1"]) == 0
