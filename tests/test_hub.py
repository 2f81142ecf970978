"""Models to the hub and back, by huggingface_hub's own code against a stand-in on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from cli_corpus import voice
from hub_server import TOKEN, serving

from mfdistill.checkpoint import load_config, load_tensors, save_folder, write_config
from mfdistill.commands.push import without_paths
from mfdistill.places import SHIPPED

ROOT = Path(__file__).resolve().parents[1]


def run(
    arguments: list[str], address: str, home: Path, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    return python(["-m", "mfdistill", *arguments], address, home, token)


def places(name: str, address: str, home: Path) -> str:
    """Where ``resolve`` finds a model, or what it says; the hub's address is read at its import."""
    code = f"""
from mfdistill.errors import UserError
from mfdistill.places import resolve
try:
    print(resolve({name!r}))
except UserError as error:
    print(error)
"""
    return python(["-c", code], address, home).stdout.strip()


def python(
    words: list[str], address: str, home: Path, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", **({"HF_TOKEN": token} if token else {}),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=home
    )


def test_pushed_models_load_by_their_revision(tmp_path: Path) -> None:
    model, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    shutil.copytree(SHIPPED / "vocode", model)
    config = load_config(model) | {"parent": {"teacher": "/home/someone/runs/teacher"}}
    write_config(model, config)
    (model / "training_state").mkdir()
    (model / "training_state" / "raw.safetensors").write_bytes(b"not for the hub")
    soundfile.write(home / "noisy.wav", voice(1, 1.0), 8000)
    with serving() as (address, hub):
        first = run(["push", str(model), "me/vocoder", "--license", "apache-2.0"], address, home)
        assert first.returncode == 0, first.stderr
        before = hub.heads["me/vocoder"]
        assert f"me/vocoder@{before}" in first.stderr
        held = hub.commits["me/vocoder"][before]
        assert sorted(held) == [".gitattributes", "README.md", "config.json", "model.safetensors", "results.json"]  # fmt: skip
        assert held["model.safetensors"] == (model / "model.safetensors").read_bytes()
        assert json.loads(held["config.json"])["parent"] == {"teacher": "teacher"}
        card = held["README.md"].decode()
        assert "license: apache-2.0" in card and "mfdistill restore me/vocoder noisy.wav" in card
        # other weights later: the pinned revision is still the first
        weights = load_tensors(model)
        save_folder(model, {k: 0 * v for k, v in weights.items()}, load_config(model))
        second = run(["push", str(model), "me/vocoder"], address, home)
        assert second.returncode == 0, second.stderr
        assert hub.heads["me/vocoder"] != before
        done = run(["restore", f"me/vocoder@{before}", "noisy.wav", "out.wav"], address, home)
        assert done.returncode == 0, done.stderr
        assert np.abs(soundfile.read(home / "out.wav")[0]).max() > 0
        found = {
            name: places(name, address, home) for name in (f"me/vocoder@{before}", "me/vocoder")
        }
        pinned, latest = (load_tensors(Path(place)) for place in found.values())
        assert all((pinned[key] == value).all() for key, value in weights.items())
        assert not any(value.any() for value in latest.values())
        missing = places("me/vocoder@nothing", address, home)
        assert "neither a file or folder here nor a model that the hub gave" in missing
        refused = run(["push", str(model), "me/vocoder"], address, home, token=None)
        assert refused.returncode == 2 and "HF_TOKEN" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_paths_of_this_machine_stay_here() -> None:
    held = {"a": ["/home/me/data", "runs/x", 3], "b": {"c": "/x/y/z.json"}}
    assert without_paths(held) == {"a": ["data", "runs/x", 3], "b": {"c": "z.json"}}


def test_what_cannot_be_pushed(tmp_path: Path) -> None:
    done = run(["push", str(tmp_path), "me/x"], "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2 and "holds no model" in done.stderr
    done = run(["push", str(SHIPPED / "vocode"), "x"], "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2 and "OWNER/NAME" in done.stderr
