"""The lock holds what pyproject.toml asks for; a torchaudio that does not fit torch is told in one
line, and nothing else needs it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mfdistill.audio import resample
from mfdistill.audio.bandwidth import band_limited
from mfdistill.cli import main
from mfdistill.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000


def locked(name: str) -> list[tuple[Requirement, int]]:
    """Each pinned package with the number of its hashes."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    return [(Requirement(line.split(" --hash")[0]), line.count("--hash=sha256:")) for line in lines]


def spelt_out(extras: dict[str, list[str]], name: str) -> list[str]:
    """What an extra asks for, those that it names included."""
    found = []
    for line in extras[name]:
        requirement = Requirement(line)
        inner = requirement.extras if requirement.name == "mfdistill" else ()
        found += [one for extra in inner for one in spelt_out(extras, extra)] if inner else [line]
    return found


def test_the_lock_is_complete_and_within_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock, build = locked("lock.txt"), locked("build.txt")
    here = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin, _ in lock
        if pin.marker is None or pin.marker.evaluate()
    }
    assert all(hashes for _, hashes in lock + build)
    extras = project["project"]["optional-dependencies"]
    asked = [
        *project["project"]["dependencies"],
        *spelt_out(extras, "dev"),
        *project["build-system"]["requires"],
    ]
    for requirement in map(Requirement, asked):
        version = here.get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version), f"make lock: {requirement}"
    # what is built from source is built with the versions that run it
    for pin, _ in build:
        if canonicalize_name(pin.name) in here and (pin.marker is None or pin.marker.evaluate()):
            assert pin.specifier.contains(here[canonicalize_name(pin.name)]), f"make lock: {pin}"
    assert not re.search(r"https?:|--\w*index", (ROOT / "requirements" / "lock.txt").read_text())


@pytest.fixture(params=["OSError", "RuntimeError", "ImportError"])
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A torchaudio that does not load."""
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {request.param}('no such symbol\\nin a library')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return request.param


def test_a_torchaudio_that_does_not_fit(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wave = np.zeros(RATE, np.float32)
    for found, torch_version, mend in (
        ("2.11.1", "2.11.0+cu130", "python -m pip install 'torchaudio==2.11.0'"),
        ("2.11.0", "2.15.0+cu132", "python -m pip install 'torchaudio==2.11.1'"),
        (None, "2.14.1", "python -m pip install 'torchaudio==2.11.1'"),
        (
            "2.11.1",
            "2.14.1+cpu",
            "python -m pip install --force-reinstall 'torch==2.14.1' 'torchaudio==2.11.1'",
        ),
    ):
        monkeypatch.setattr(torch, "__version__", torch_version)
        monkeypatch.setattr(resample, "_installed", lambda found=found: found)
        with pytest.raises(UserError) as told:
            band_limited(wave, RATE, 8000, "kaiser_fast")
        said = str(told.value)
        assert said == resample.torchaudio_fault() and said.endswith("; " + mend)
        assert f"torchaudio {found or '(not installed)'} does not load" in said
        assert torch_version in said and "(no such symbol)" in said
    assert len(band_limited(wave, RATE, 8000, "soxr_hq")) == RATE
    assert main(["info"]) == 0
    assert "does not load beside torch" in " ".join(capsys.readouterr().out.split())


def test_a_torchaudio_that_fits() -> None:
    if fault := resample.torchaudio_fault():
        pytest.skip(fault)
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(RATE, dtype=torch.float64) / RATE)
    made = resample.resample(tone, RATE, 8000)
    torch.testing.assert_close(made[100:-100], tone[::2][100:-100], atol=2e-3, rtol=0)
