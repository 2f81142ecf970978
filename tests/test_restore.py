"""Restoring by blocks gives what restoring at once gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mfdistill.commands.restore import Restore, restore_file
from mfdistill.distill.inference import Model, endpoint
from mfdistill.networks import CompactConfig, build_network
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
