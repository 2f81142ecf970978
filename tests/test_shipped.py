"""The models that come with the program: small, with cards, in the package, and a file restored
with nothing named.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_corpus import voice

from mfdistill.checkpoint import load_config, load_tensors
from mfdistill.cli import main
from mfdistill.commands.models import about
from mfdistill.commands.results import evaluations, weights_digest
from mfdistill.errors import UserError
from mfdistill.places import RESTORES, SHIPPED, STREAMS, resolve, shipped


def test_defaults_are_there() -> None:
    assert {RESTORES, STREAMS} <= set(shipped())
    assert load_config(resolve(STREAMS))["task"]["stft"]["causal"] is True


@pytest.mark.parametrize("name", shipped())
def test_small_and_with_a_card(name: str) -> None:
    import torch

    folder = SHIPPED / name
    assert (folder / "model.safetensors").stat().st_size <= 1_000_000
    assert all(
        tensor.dtype == torch.float16
        for tensor in load_tensors(folder).values()
        if tensor.is_floating_point()
    )
    config = load_config(folder)
    assert config["schedule"] == [0.0, 1.0]  # one step, unless more are asked for
    assert "/" not in json.dumps(config.get("parent") or {})
    card = (folder / "README.md").read_text()
    for part in ("## Limits", "| Data |", "These weights are under", f"mfdistill restore {name} "):
        assert part in card
    (entry,) = evaluations(folder)
    assert entry["sha256"] == weights_digest(folder)
    row = next(row for row in entry["rows"] if row["model"] == "student" and row["nfe"] == 1)
    assert f"{row['pesq']:.2f}" in card
    assert about(name)["card"] == str(folder / "README.md")


@pytest.mark.parametrize("options", [[], ["--model", "vocode"], ["--model", "phase-causal"]])
def test_restored_with_nothing_else_named(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, voice(1, 1.0, 16000), 16000)
    assert main(["restore", str(source), str(target), *options]) == 0
    wave, rate = soundfile.read(target)
    assert rate == 16000 and len(wave) == 16000 and np.abs(wave).max() > 0.01
    said = capsys.readouterr().err
    name = options[1] if options else RESTORES
    assert (
        f"{name}: student '{name.split('-')[0]}' at " in said and "1 evaluation, times 0 1" in said
    )
    # the model in the first place says the same
    assert main(["restore", name, str(source), str(tmp_path / "again.wav"), "--nfe", "1"]) == 0
    assert (soundfile.read(tmp_path / "again.wav")[0] == wave).all()


def test_stream_takes_the_causal_one(tmp_path: Path) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, voice(1, 1.0), 8000)
    assert main(["stream", str(source), str(target)]) == 0
    assert soundfile.info(target).frames == 8000


def test_two_models_and_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(tmp_path / "in.wav"), str(tmp_path / "out.wav")
    soundfile.write(source, voice(1, 1.0), 8000)
    assert main(["restore", "enhance", source, target, "--model", "vocode"]) == 2
    assert "enhance is the model already" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean the model enhance"):
        resolve("enhence")
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in shipped())
