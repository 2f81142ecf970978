"""The source distribution and the wheel made of it, installed beside nothing of the checkout: it
holds what the program reads, and restores a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile
from cli_corpus import voice

from mfdistill.places import shipped

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_works_on_its_own(tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="this environment has no pip to build a wheel with")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "mfdistill", source / "mfdistill", ignore=shutil.ignore_patterns("__pycache__")
    )
    sdist = "from setuptools import build_meta; print(build_meta.build_sdist('.'))"
    done = subprocess.run(
        [sys.executable, "-c", sdist], cwd=source, check=True, capture_output=True, text=True
    )
    archive = source / done.stdout.splitlines()[-1]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(archive)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
        file.extractall(tmp_path / "installed")
    assert "mfdistill/report/page.html" in held
    for name in shipped():
        for part in ("model.safetensors", "config.json", "README.md", "results.json"):
            assert f"mfdistill/models/{name}/{part}" in held
    assert not any(name.startswith(("tests", "benchmarks")) for name in held)
    assert wheel.stat().st_size < 8_000_000
    soundfile.write(tmp_path / "in.wav", voice(1, 1.0, 16000), 16000)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"}
    code = "import sys, mfdistill; from mfdistill.cli import main; print(mfdistill.__file__); sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "restore", "in.wav", "out.wav"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "installed") in done.stdout
    assert soundfile.info(tmp_path / "out.wav").frames == 16000
