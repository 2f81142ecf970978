"""From ``pip install`` to a restored file: ``python benchmarks/install_size.py`` makes an empty
environment, installs this checkout into it without extras, restores a recording, and says how many
seconds and megabytes that took.

``--torch '2.13.0'`` installs that torch first (a CPU build, where pip is given one); ``--extras
all`` installs extras too; ``--record`` adds the row to ``benchmarks/results/install_size.json``.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mfdistill.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "install_size.json"
_NOISY = """
import numpy as np, soundfile
t = np.arange(3 * 16000) / 16000
voice = np.sin(2 * np.pi * 140 * t) * np.maximum(0, np.sin(2 * np.pi * 2 * t))
noise = 0.05 * np.random.default_rng(0).standard_normal(t.size)
soundfile.write("noisy.wav", (0.3 * voice + noise).astype(np.float32), 16000)
"""


@dataclass(frozen=True)
class InstallSize:
    """Measure an installation."""

    torch: str | None = None
    """Version that is installed first."""
    extras: str | None = None
    """Such as 'all' or 'metrics,hub'."""
    record: bool = False
    """Add to benchmarks/results/install_size.json."""


def run(command: InstallSize) -> dict[str, Any]:
    """The measured row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()

        def step(what: str, *words: str) -> None:
            subprocess.run(words, check=True, cwd=folder)
            logging.info("%6.1f s  %s", time.monotonic() - began, what)

        step("environment", sys.executable, "-m", "venv", "env")
        python = str(folder / "env" / "bin" / "python")
        install = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        if command.torch is not None:
            step(f"torch {command.torch}", *install, f"torch=={command.torch}")
        wanted = str(ROOT) + (f"[{command.extras}]" if command.extras else "")
        step("mfdistill", *install, wanted)
        installed = time.monotonic() - began
        step("a recording", python, "-c", _NOISY)
        restoring = time.monotonic()
        program = str(folder / "env" / "bin" / "mfdistill")
        step("restored", program, "restore", "noisy.wav", "clean.wav")
        done = time.monotonic()
        ask = "import torch; print(torch.__version__, torch.version.cuda)"
        told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
        )  # fmt: skip
        return {
            "extras": command.extras or "none",
            "torch": told.stdout.strip().replace(" None", " (CPU)"),
            "packages": len(json.loads(listed.stdout)),
            "MB": round(size(folder / "env") / 1e6),
            "seconds to install": round(installed, 1),
            "seconds to restore": round(done - restoring, 1),
            "seconds in all": round(done - began, 1),
            "mean load": round(os.getloadavg()[1], 1),
        }


def size(folder: Path) -> int:
    """Bytes of all files below, links not followed."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    chosen = tyro.cli(InstallSize)
    row = run(chosen)
    sys.stdout.write(json.dumps(row, indent=2) + "\n")
    if chosen.record:
        rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
        same = {key: row[key] for key in ("extras", "torch")}
        kept = [old for old in rows if {key: old[key] for key in same} != same]
        write_json(RESULTS, [*kept, row])
